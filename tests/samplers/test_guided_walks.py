"""Guidance under every sampler and walk: what it costs, and that scale 1 is the conditional walk."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, fit_grid, fit_solver, sample
from sde_lib import Autoguidance, ClassifierFree, Estimate, Guided, expand, record_evaluations
from tests.samplers.walks import KEY, NAMES, SDE, call, results, state


class Unit(eqx.Module):
    """The exact denoiser of N(0, 1) without a condition, and of N(label / 2, 1 / 2) with labels."""

    sigma_data: float = 1.0

    def __call__(self, x, t, cond=None):
        record_evaluations()
        alpha, sigma = SDE.marginal(expand(t, x))
        mean, variance = (0.0, 1.0) if cond is None else (0.5 * expand(cond, x), 0.5)
        power = alpha**2 * variance + sigma**2
        x0 = mean + alpha * variance * (x - alpha * mean) / power
        return Estimate(x0=x0, noise=sigma * (x - alpha * mean) / power)


DENOISE = Unit()
LABELS = jnp.array([0, 1, 1])
X = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
ONE = Guided(LABELS, jnp.ones(3))
GUIDED = ClassifierFree(DENOISE, 3.0)


@pytest.fixture(autouse=True)
def programs_that_compile_fast():
    """Every program here runs once or twice, on next to nothing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def silent_without_condition(x, t, cond=None):
    """Return the estimate given labels, and 0 without: guidance by 1 adds no rounding to it."""
    estimate = DENOISE(x, t, cond)
    return estimate if cond is not None else jax.tree.map(jnp.zeros_like, estimate)


@pytest.mark.parametrize("name", NAMES)
def test_every_walk_takes_guidance_and_counts_both_evaluations(name):
    # Rounding decides which steps the adaptive reverse SDE accepts, so there must be none.
    denoise = silent_without_condition if name == "reverse_sde" else DENOISE
    plain = call(name, denoise, X, cond=LABELS)
    guided = call(name, ClassifierFree(denoise, 3.0), X, cond=ONE)
    np.testing.assert_allclose(state(guided), state(plain), rtol=2e-3, atol=2e-3)
    if "nfe" in results(name):
        assert int(guided.nfe) == 2 * int(plain.nfe) > 0


def test_every_kind_of_sampler_takes_guidance_and_counts_both_evaluations(example):
    plain = call("sample", DENOISE, X, sampler=example, cond=LABELS)
    guided = call("sample", GUIDED, X, sampler=example, cond=ONE)
    np.testing.assert_allclose(guided.x, plain.x, rtol=1e-3, atol=1e-3)
    assert int(guided.nfe) == 2 * int(plain.nfe) > 0


def test_each_sample_is_steered_by_its_own_scale():
    scales = jnp.array([0.0, 1.0, 4.0])
    together = call("sample", GUIDED, X, cond=Guided(LABELS, scales)).x
    alone = [
        call("sample", ClassifierFree(DENOISE, w), X, cond=LABELS).x[i]
        for i, w in enumerate(scales)
    ]
    np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-5)
    np.testing.assert_allclose(together[0], call("sample", DENOISE, X).x[0], atol=1e-5)


def test_a_scale_can_be_learned_through_a_walk():
    def weaker(x, t, cond):
        return DENOISE(x, t, None)

    def end(scale):
        return jnp.sum(call("sample", Autoguidance(DENOISE, weaker, scale), X, cond=LABELS).x)

    (low, slope), (high, next_slope) = (
        jax.value_and_grad(end)(jnp.asarray(w)) for w in (1.98, 2.02)
    )
    np.testing.assert_allclose((slope + next_slope) / 2, (high - low) / 0.04, rtol=0.02)


def test_grids_and_solvers_are_fitted_to_guidance():
    x = jnp.concatenate([X, -X])
    cond = Guided(jnp.concatenate([LABELS, LABELS]), jnp.full(6, 3.0))
    settings = {"cond": cond, "target": x, "updates": 1}
    grid = fit_grid(DDIM(), GUIDED, SDE, x, 2, **settings)
    solver = fit_solver(GUIDED, SDE, x, 3, **settings)
    assert np.isfinite(grid.distance) and np.isfinite(solver.distance)
    assert int(sample(KEY, DDIM(), GUIDED, SDE, grid.result, x, cond=cond).nfe) == 2 * (2 + 1)
