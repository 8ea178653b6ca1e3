"""The variational bound: tight for a perfect denoiser, its error honest, below the truth for any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import variational_bound
from sde_lib import VE, VP, Estimate, Gaussian, GaussianMixture, Rectified

CURVED = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.04, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]],
)


@pytest.mark.parametrize(
    "sde", [VP(), VE(sigma_min=0.001), Rectified()], ids=lambda s: type(s).__name__
)
def test_the_bound_of_a_perfect_denoiser_is_the_log_density(sde):
    # The reverse SDE of an exact score is the forward process, so nothing is lost but the prior's mismatch, below 2e-3 nat here, and what
    # sigma(t_min) blurs. 1500 estimates, each point by itself: 4.5 standard errors, false-alarm probability 7e-6.
    x = jnp.repeat(CURVED.sample(jax.random.key(2), 3), 500, axis=0)
    result = variational_bound(jax.random.key(0), CURVED.denoiser(sde), sde, x, draws=32)
    error = (
        np.asarray(result.log_prob, np.float64) - np.asarray(CURVED.log_prob(VP(), x, 0.0))
    ).reshape(3, 500)
    bar = np.asarray(result.std_error, np.float64).reshape(3, 500)
    assert np.all(np.abs(error.mean(1)) < 4.5 * error.std(1) / np.sqrt(500) + 4e-3), error.mean(1)
    # Neighbouring strata differ in their means as well, so the error bar is an upper one, but not by much.
    ratio = np.mean(bar**2, 1) / error.var(1)
    assert np.all(ratio > 0.75) and np.all(ratio < 1.6), ratio
    assert int(result.nfe) == 32


def test_a_wrong_denoiser_loses_what_its_error_costs():
    # Noise estimates off by c everywhere cost, over the data, D c^2 / 2 for each unit of log-SNR.
    sde, c = VP(), 0.2
    exact = CURVED.denoiser(sde)

    def denoise(x, t, cond=None):
        estimate = exact(x, t, cond)
        return estimate._replace(noise=estimate.noise + c)

    x = CURVED.sample(jax.random.key(2), 2000)
    best, worse = (
        variational_bound(jax.random.key(0), d, sde, x, draws=16).log_prob for d in (exact, denoise)
    )
    lost = np.asarray(best - worse, np.float64)
    span = float(sde.log_snr(jnp.asarray(sde.t_min)) - sde.log_snr(jnp.ones(())))
    assert abs(lost.mean() - c**2 * span) < 4.5 * lost.std() / np.sqrt(2000)


def test_the_prior_is_charged_for_the_signal_that_is_left():
    # A denoiser that never expects noise errs by the noise itself, which belongs to the index: what x changes is its KL from the prior.
    sde, x = VP(beta_max=1.0), jnp.array([[2.0, -1.0]])

    def bound(x):
        return variational_bound(
            jax.random.key(0), lambda x, t, cond: Estimate(x, 0 * x), sde, x, draws=2
        ).log_prob

    signal = float(sde.marginal(jnp.ones(()))[0]) ** 2
    np.testing.assert_allclose(bound(x) - bound(0 * x), -0.5 * signal * 5, rtol=1e-4)


def test_the_prior_is_charged_for_what_it_is_not():
    # With the exact score the reverse process started from p_1 gives the density of the data, so another prior costs what it is
    # farther from q(x_1 | x) than p_1 is. 8000 estimates of a point: 4.5 standard errors, false-alarm probability 7e-6, and 4e-3
    # for sigma(t_min).
    sde, x, (m, v) = VP(beta_max=1.0), 0.9, (0.3, 0.25)
    alpha, sigma = (float(a) for a in sde.marginal(jnp.ones(())))

    def divergence(mean, variance):
        """Return that of q from N(mean, variance)."""
        ratio = sigma**2 / variance
        return 0.5 * (ratio - 1 - np.log(ratio) + (alpha * x - mean) ** 2 / variance)

    cost = divergence(0.0, 1.0) - divergence(alpha * m, alpha**2 * v + sigma**2)
    density = -0.5 * (x - m) ** 2 / v - 0.5 * np.log(2 * np.pi * v)
    denoise = Gaussian([m], [[v]]).denoiser(sde)
    result = variational_bound(jax.random.key(0), denoise, sde, jnp.full((8000, 1), x), draws=256)
    result = np.asarray(result.log_prob, np.float64)
    error = result.mean() - (density - cost)
    bar = 4.5 * result.std() / np.sqrt(8000) + 4e-3
    charge = 0.5 * (sigma**2 - 1 - np.log(sigma**2))  # what the prior's width alone is charged for
    assert cost > 0.1 and bar < 0.3 * charge, (bar, charge)
    assert abs(error) < bar, error


def test_a_process_without_signal_at_its_end_is_left_where_none_of_the_signal_counts():
    # The charge for the signal that is left, 0.5 e^-20 x^2, is 1e-4 nat for a pixel 300 standard deviations away.
    sde, x = Rectified(), jnp.array([[300.0]])

    def bound(x):
        return variational_bound(
            jax.random.key(0), lambda x, t, cond: Estimate(x, 0 * x), sde, x, draws=2
        ).log_prob

    lost = float((bound(0 * x) - bound(x))[0])
    assert 0 <= lost < 1e-3


def test_draws_belong_to_the_index_and_odd_numbers_are_refused():
    sde, x = VP(), jnp.broadcast_to(CURVED.sample(jax.random.key(2), 1), (3, 2))

    def bound(index):
        result = variational_bound(
            jax.random.key(0), CURVED.denoiser(sde), sde, x, draws=4, index=jnp.array(index)
        )
        return np.asarray(result.log_prob)

    np.testing.assert_allclose(bound([7, 0, 1])[[1, 2]], bound([0, 1, 2])[:2], rtol=1e-4)
    with pytest.raises(ValueError, match="need an even number of draws, at least 2, got 3"):
        variational_bound(jax.random.key(0), CURVED.denoiser(sde), sde, x, draws=3)
