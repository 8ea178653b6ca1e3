"""The variational bound: tight for a perfect denoiser, its error honest, below the truth for any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import variational_bound
from sde_lib import VE, VP, Estimate, GaussianMixture, Rectified

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
    # sigma(t_min) blurs. 1500 estimates, each point by itself: 4.5 standard errors, missed by 7e-6 of right codes.
    x = jnp.repeat(CURVED.sample(jax.random.key(2), 3), 500, axis=0)
    found = variational_bound(jax.random.key(0), CURVED.denoiser(sde), sde, x, draws=32)
    error = (
        np.asarray(found.log_prob, np.float64) - np.asarray(CURVED.log_prob(VP(), x, 0.0))
    ).reshape(3, 500)
    bar = np.asarray(found.std_error, np.float64).reshape(3, 500)
    assert np.all(np.abs(error.mean(1)) < 4.5 * error.std(1) / np.sqrt(500) + 4e-3), error.mean(1)
    # Neighbouring strata differ in their means as well, so the error bar is an upper one, but not by much.
    ratio = np.mean(bar**2, 1) / error.var(1)
    assert np.all(ratio > 0.75) and np.all(ratio < 1.6), ratio
    assert int(found.nfe) == 32


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


def test_draws_belong_to_the_index_and_odd_numbers_are_refused():
    sde, x = VP(), jnp.broadcast_to(CURVED.sample(jax.random.key(2), 1), (3, 2))

    def bound(index):
        found = variational_bound(
            jax.random.key(0), CURVED.denoiser(sde), sde, x, draws=4, index=jnp.array(index)
        )
        return np.asarray(found.log_prob)

    np.testing.assert_allclose(bound([7, 0, 1])[[1, 2]], bound([0, 1, 2])[:2], rtol=1e-4)
    with pytest.raises(ValueError, match="need an even number of draws, at least 2, got 3"):
        variational_bound(jax.random.key(0), CURVED.denoiser(sde), sde, x, draws=3)
