"""A solver given by numbers: the solvers it generalises, constant denoisers, and what it was not made for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, DPMpp2M, FewSteps, draw_prior, grids, sample
from sde_lib import VE, VP, Cosine, Estimate, GaussianMixture, Rectified

KEY = jax.random.key(0)
CURVED = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.04, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]],
)


def levels_of(sde, ts):
    alpha, sigma = sde.marginal(jnp.asarray(ts))
    return np.asarray(sigma / alpha, np.float64)


def second_order(levels):
    """Return the weights of DPM-Solver++(2M)."""
    h = -np.diff(np.log(levels))
    slope = np.append(0.0, h[1:] / (2 * h[:-1]))
    return np.diag(1 + slope) - np.diag(slope[1:], -1)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "sampler, weights",
    [(DDIM(), lambda levels: np.eye(len(levels) - 1)), (DPMpp2M(), second_order)],
)
def test_published_solvers_are_of_this_form(sde, sampler, weights):
    ts = grids.log_snr(sde, 6)
    levels = levels_of(sde, ts)
    x = draw_prior(KEY, sde, (5, 2))
    expected = sample(KEY, sampler, CURVED.denoiser(sde), sde, ts, x, denoise_last=False)
    result = FewSteps(levels, levels[:-1], weights(levels))(CURVED.denoiser(sde), sde, x)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-3, atol=1e-4)
    assert int(result.nfe) == 6


def test_a_constant_denoiser_is_solved_exactly_whatever_the_weights():
    sde, rng = VP(), np.random.default_rng(0)
    free = np.tril(rng.normal(size=(3, 3)), -1)
    start = levels_of(sde, [1.0])[0]
    clean = jnp.asarray([[0.3, -0.7]])

    def denoise(x, t, cond):
        return Estimate.from_x0(x, *sde.marginal(jnp.asarray(t)), jnp.broadcast_to(clean, x.shape))

    solver = FewSteps(
        np.array([start, 3.0, 0.5, 0.0]),
        np.array([start, 2.0, 0.4]),
        free + np.diag(1 - free.sum(1)),
    )
    np.testing.assert_allclose(
        solver(denoise, sde, draw_prior(KEY, sde, (4, 2))).x, np.repeat(clean, 4, 0), atol=1e-6
    )


@pytest.mark.parametrize(
    "levels, network_level, weights, message",
    [
        ([4.0, 1.0, 0.1], [4.0], np.eye(1), "1 steps need 2 noise levels"),
        ([4.0, 5.0], [4.0], np.eye(1), "decreasing noise levels"),
        ([4.0, 1.0], [-1.0], np.eye(1), "network levels above 0"),
        ([4.0, 1.0, 0.1], [4.0, 1.0], [[1.0, 0.0], [0.5, 0.4]], "rows add up to 1"),
        ([4.0, 1.0, 0.1], [4.0, 1.0], [[0.5, 0.5], [0.0, 1.0]], "lower triangular"),
    ],
)
def test_numbers_that_are_no_solver_are_refused(levels, network_level, weights, message):
    with pytest.raises(ValueError, match=message):
        FewSteps(np.array(levels), np.array(network_level), np.array(weights))


def test_a_process_with_another_start_is_refused():
    levels = levels_of(VP(), [1.0, 0.3, 1e-3])
    solver = FewSteps(levels, levels[:-1], np.eye(2))
    for other in (VE(), VP(beta_max=10.0), Cosine(), Rectified()):
        with pytest.raises(ValueError, match="use the process it was fitted for, or fit it anew"):
            solver(CURVED.denoiser(other), other, jnp.zeros((2, 2)))


def test_the_network_is_called_at_its_level_with_the_state_it_would_have_there():
    sde, network_level = VP(), 2.0
    start = levels_of(sde, [1.0])[0]
    x = draw_prior(KEY, sde, (4, 2))
    result = FewSteps(np.array([start, 0.0]), np.array([network_level]), np.eye(1))(
        CURVED.denoiser(sde), sde, x
    )
    t = sde.time(jnp.asarray(-2 * np.log(network_level)))
    network_alpha, alpha = sde.marginal(t)[0], sde.marginal(jnp.ones(()))[0]
    np.testing.assert_allclose(
        result.x, CURVED.denoiser(sde)(network_alpha * x / alpha, t).x0, rtol=1e-4, atol=1e-5
    )
