r"""Samplers on a mixture, where the flow is curved and a Gaussian would hide errors.

In one dimension the probability flow keeps quantiles, so with F_t the distribution function of p_t its exact map is
:math:`x_s = F_s^{-1}(F_t(x_t))`: an oracle that knows neither score nor drift.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from samplers import AnnealedLangevin, Langevin, PredictorCorrector, grids, sample
from sde_lib import Estimate, GaussianMixture, in_float64

WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.3, 0.4])
DATA = GaussianMixture(WEIGHTS, MEANS[:, None], STDS[:, None, None] ** 2)
END = 0.01


class Each(eqx.Module):
    """The denoiser of data whose coordinates are independent, each of them a draw from the mixture."""

    sde: eqx.Module

    def __call__(self, x, t, cond=None):
        estimate = DATA.estimate(self.sde, x.reshape(-1, 1), t)
        return Estimate(estimate.x0.reshape(x.shape), estimate.noise.reshape(x.shape))


def distribution(sde, t):
    """Return the distribution function of p_t and its inverse."""
    alpha, sigma = in_float64(sde.marginal, t)
    spread = np.hypot(alpha * STDS, sigma)
    below = lambda x: stats.norm.cdf((np.asarray(x)[..., None] - alpha * MEANS) / spread) @ WEIGHTS
    reach = alpha * np.abs(MEANS).max() + 9 * spread.max()
    return below, np.vectorize(lambda p: optimize.brentq(lambda x: below(x) - p, -reach, reach, xtol=1e-15, rtol=1e-14))


def test_end_points_converge_to_the_exact_flow_with_the_declared_order(deterministic, sde):
    quantiles = np.linspace(0.02, 0.98, 41)
    start, exact = (distribution(sde, t)[1](quantiles) for t in (1.0, END))
    error = []
    with jax.enable_x64(True):
        for n in (256, 512):
            end = sample(
                jax.random.key(0), deterministic, Each(sde), sde, grids.quadratic(sde, n, end=END), jnp.asarray(start)[:, None], denoise_last=False
            )
            error.append(np.median(np.abs(np.asarray(end.x[:, 0]) - exact)))
    slope = np.log2(error[0] / error[1])
    assert error[1] < 0.03, f"off by {error} where the data have standard deviations of 0.3 and 0.4"
    assert abs(slope - deterministic.order) < 0.3, f"declared {deterministic.order}, measured {slope}, errors {error}"


def test_samples_have_the_distribution_that_they_should(stochastic, sde):
    # 64 x 1024 independent values, started from p_1. The share of them below each of nine quantiles has a standard deviation of at most
    # 0.002; five of them, 0.0098, are exceeded in one of 2e6 right codes (times nine). At 400 steps discretisation may add 0.005.
    batch, d, steps = 1024, 64, 400
    if isinstance(stochastic, PredictorCorrector) and isinstance(stochastic.corrector, AnnealedLangevin | Langevin):
        # A corrector of finite step has a law of its own, wider by snr^2.
        stochastic = eqx.tree_at(lambda s: s.corrector.snr, stochastic, 0.04)
    rng, (_, start) = np.random.default_rng(1), distribution(sde, 1.0)
    table = start(np.linspace(1e-6, 1 - 1e-6, 4001))
    x = jnp.asarray(np.interp(rng.uniform(1e-6, 1 - 1e-6, (batch, d)), np.linspace(1e-6, 1 - 1e-6, 4001), table), jnp.float32)
    end = sample(jax.random.key(2), stochastic, Each(sde), sde, grids.quadratic(sde, steps, end=END), x, denoise_last=False).x
    shares = np.linspace(0.1, 0.9, 9)
    points = distribution(sde, END)[1](shares)
    found = np.mean(np.asarray(end)[..., None] < points, (0, 1))
    print('DEV', stochastic, type(sde).__name__, np.abs(found-shares).max())
    assert np.all(np.abs(found - shares) < 0.0148), found - shares
