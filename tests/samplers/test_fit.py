"""Learned grids and solvers: better than what they start from on noises they never saw, by gradients that are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from samplers import (
    DDIM,
    DPMpp2M,
    EulerMaruyama,
    FewSteps,
    draw_prior,
    fit_grid,
    fit_solver,
    grids,
    probability_flow,
    sample,
)
from samplers.fit import rms
from sde_lib import VP, Estimate, Gaussian, GaussianMixture, Rectified

KEY, SDE = jax.random.key(0), VP()
DATA = GaussianMixture(
    [0.3, 0.7], [[-0.8, 0.2], [0.5, -0.1]], [[[0.01, 0.003], [0.003, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]]
)  # fmt: skip
DENOISE = DATA.denoiser(SDE)
X, FRESH = draw_prior(jax.random.key(1), SDE, (48, 2)), draw_prior(jax.random.key(2), SDE, (200, 2))


@pytest.fixture(scope="module")
def ends():
    return probability_flow(DENOISE, SDE, FRESH, rtol=1e-6, atol=1e-6, denoise_last=False).x


def test_a_fitted_solver_is_several_times_better_than_published_ones_on_fresh_noises(ends):
    done = []
    fit = fit_solver(
        DENOISE, SDE, X, 4, end=1e-3, updates=800, progress=lambda n, total: done.append((n, total))
    )
    assert fit.result.nfe == 4 and fit.distance == fit.history.min() < fit.history[0] / 4
    assert done == [((i + 1) * 20, 800) for i in range(len(fit.history) - 1)]
    walked = fit.result(DENOISE, SDE, FRESH)
    error = float(jnp.median(rms(walked.x, ends)))
    published = [
        float(
            jnp.median(
                rms(sample(KEY, s, DENOISE, SDE, grid(SDE, 4), FRESH, denoise_last=False).x, ends)
            )
        )
        for s in (DDIM(), DPMpp2M())
        for grid in (grids.log_snr, grids.quadratic, grids.karras)
    ]
    assert int(walked.nfe) == 4 and error < min(published) / 3, (error, published)


def test_a_fitted_grid_is_better_than_the_published_ones_on_fresh_noises(ends):
    fit = fit_grid(DPMpp2M(), DENOISE, SDE, X, 5, updates=400)
    assert fit.result[0] == 1 and fit.result[-1] == 1e-3 and np.all(np.diff(fit.result) < 0)
    errors = [
        float(
            jnp.median(
                rms(sample(KEY, DPMpp2M(), DENOISE, SDE, ts, FRESH, denoise_last=False).x, ends)
            )
        )
        for ts in (
            fit.result,
            grids.log_snr(SDE, 5),
            grids.quadratic(SDE, 5),
            grids.karras(SDE, 5),
        )
    ]
    assert errors[0] < 0.6 * min(errors[1:]), errors


def test_gradients_through_a_walk_are_those_of_finite_differences():
    with jax.enable_x64(True):
        sde = VP()
        x = jnp.asarray(np.asarray(X[:3], np.float64))
        first = float(jnp.exp(-0.5 * sde.log_snr(jnp.ones(()))))

        def denoise(x, t, cond):
            alpha, sigma = sde.marginal(jnp.asarray(t))
            return Estimate.from_x0(x, alpha, sigma, jnp.tanh(alpha * x / (0.2 + sigma**2)))

        def end(middle, network_levels, weight):
            levels = jnp.stack([jnp.asarray(first), jnp.exp(middle), jnp.asarray(0.01)])
            weights = jnp.array([[1.0, 0.0], [0.0, 1.0]]) + weight * jnp.array(
                [[0.0, 0.0], [1.0, -1.0]]
            )
            return jnp.sum(
                FewSteps(levels, jnp.exp(network_levels), weights)(denoise, sde, x).x ** 2
            )

        at = (jnp.log(0.7), jnp.log(jnp.array([first / 2, 0.6])), jnp.asarray(0.2))
        check_grads(end, at, order=1, modes=["rev"], eps=1e-5, rtol=1e-5)


def test_the_teacher_is_told_the_condition():
    """Where the condition is the answer, one evaluation ends where the accurate flow does; without it, it would not."""

    def denoise(x, t, cond):
        alpha, sigma = SDE.marginal(jnp.asarray(t))
        return Estimate.from_x0(x, alpha, sigma, jnp.broadcast_to(cond[:, None], x.shape))

    cond = jnp.linspace(-3, 3, 8)
    noises = jnp.ones((8, 2), jnp.int32)  # whole numbers are taken for noises, too
    fit = fit_solver(denoise, SDE, noises, 1, cond=cond, updates=1)
    assert fit.result.nfe == 1 and fit.distance < 1e-5


@pytest.mark.parametrize("end", [None, 1e-3])
def test_a_process_without_signal_at_its_start_is_fitted_from_pure_noise(end):
    sde = Rectified()
    denoise = Gaussian([0.3, 0.0], [[4.0, 0.0], [0.0, 4.0]]).denoiser(sde)
    fit = fit_solver(denoise, sde, FRESH[:8], 2, end=end, target=FRESH[:8] * 2.0, updates=1)
    np.testing.assert_allclose(
        fit.result.noise_levels[0], 400, rtol=1e-3
    )  # 200 standard deviations
    assert np.isfinite(fit.history).all()
    assert np.isfinite(fit.result(denoise, sde, FRESH[:8]).x).all()


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="needs a deterministic sampler"):
        fit_grid(EulerMaruyama(), DENOISE, SDE, X, 5)
    with pytest.raises(ValueError, match="at least two noises"):
        fit_solver(DENOISE, SDE, X[:1], 2, end=1e-3, target=X[:1])
    with pytest.raises(
        ValueError, match="no walk of this denoiser from these noises ends in finite"
    ):
        fit_solver(DENOISE, SDE, X[:2], 2, end=1e-3, target=X[:2] * np.nan, updates=1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rate": 0.0}, "need a finite rate > 0, such as 0.03, got 0.0"),
        ({"rate": -1.0}, "need a finite rate > 0"),
        ({"rate": np.nan}, "need a finite rate > 0"),
        ({"rate": np.inf}, "need a finite rate > 0"),
        ({"updates": 0}, "need updates as a whole number from 1"),
        ({"updates": 2.5}, "need updates as a whole number from 1"),
    ],
)
def test_settings_that_learn_nothing_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        fit_solver(DENOISE, SDE, X, 2, **setting)
    with pytest.raises(ValueError, match=message):
        fit_grid(DDIM(), DENOISE, SDE, X, 2, **setting)


@pytest.mark.parametrize("number", [0, -1, 2.0, None, True])
def test_what_is_no_number_of_evaluations_or_steps_is_refused(number):
    with pytest.raises(ValueError, match="need nfe as a whole number from 1"):
        fit_solver(DENOISE, SDE, X, number)
    with pytest.raises(ValueError, match="need steps as a whole number from 1"):
        fit_grid(DDIM(), DENOISE, SDE, X, number)


def test_fitting_cannot_be_traced():
    for traced in (
        lambda rate: fit_solver(DENOISE, SDE, X, 2, rate=rate),
        lambda rate: fit_grid(DDIM(), DENOISE, SDE, X * rate, 2),
    ):
        with pytest.raises(ValueError, match="cannot be traced; call it outside of jax.jit"):
            jax.jit(traced)(0.03)
