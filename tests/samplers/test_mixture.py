r"""Samplers on a mixture, where the flow is curved and a Gaussian would hide errors.

In one dimension the probability flow keeps quantiles, so with F_t the distribution function of p_t its exact map is
:math:`x_s = F_s^{-1}(F_t(x_t))`: an oracle that knows neither score nor drift.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, stats

from samplers import PredictorCorrector, grids, sample
from sde_lib import SDE, Estimate, in_float64

WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.3, 0.4])
END = 0.01


class Mixture(eqx.Module):
    """The exact denoiser of data whose coordinates are independent draws from the mixture."""

    sde: SDE

    def __call__(self, x, t, cond=None):
        (alpha, sigma), x = self.sde.marginal(jnp.asarray(t, x.dtype)), x[None]
        weights, means, stds = (jnp.asarray(a, x.dtype).reshape(-1, 1, 1) for a in (WEIGHTS, MEANS, STDS))
        variance = (alpha * stds) ** 2 + sigma**2
        r = jax.nn.softmax(jnp.log(weights) - 0.5 * (x - alpha * means) ** 2 / variance - 0.5 * jnp.log(variance), axis=0)
        x0 = means + alpha * stds**2 / variance * (x - alpha * means)
        return Estimate(jnp.sum(r * x0, 0), jnp.sum(r * sigma / variance * (x - alpha * means), 0))


def distribution(sde, t):
    """Return the distribution function of p_t and its inverse."""
    alpha, sigma = in_float64(sde.marginal, t)
    spread = np.hypot(alpha * STDS, sigma)

    def below(x):
        return stats.norm.cdf((np.asarray(x)[..., None] - alpha * MEANS) / spread) @ WEIGHTS

    reach = alpha * np.abs(MEANS).max() + 9 * spread.max()
    return below, np.vectorize(lambda p: optimize.brentq(lambda x: below(x) - p, -reach, reach, xtol=1e-15, rtol=1e-14))


def test_end_points_converge_to_the_exact_flow_with_the_declared_order(deterministic, sde):
    quantiles = np.linspace(0.02, 0.98, 41)
    start, exact = (distribution(sde, t)[1](quantiles)[:, None] for t in (1.0, END))
    error = []
    with jax.enable_x64(True):
        for n in (256, 512):
            ts = grids.quadratic(sde, n, end=END)
            end = sample(jax.random.key(0), deterministic, Mixture(sde), sde, ts, jnp.asarray(start), denoise_last=False).x
            error.append(np.median(np.abs(np.asarray(end) - exact)))
    slope = np.log2(error[0] / error[1])
    assert error[1] < 0.03, f"off by {error} where the data have standard deviations of 0.3 and 0.4"
    assert abs(slope - deterministic.order) < 0.3, f"declared {deterministic.order}, measured {slope}, errors {error}"


def test_samples_have_the_distribution_that_they_should(stochastic, sde):
    # 256 x 64 independent values, started from p_1. The share of them below a point has a standard deviation of at most 0.0039; five of
    # them, 0.0195, at one of nine points are passed by 5e-6 of right codes. At 100 steps discretisation moves a share by up to 0.01.
    batch, d, steps = 256, 64, 100
    if isinstance(stochastic, PredictorCorrector):  # a corrector of finite step has a law of its own, wider by snr^2
        stochastic = eqx.tree_at(lambda s: s.corrector.snr, stochastic, 0.04)
    grid = np.linspace(0, 1, 4001)[1:-1]
    u = np.random.default_rng(1).uniform(grid[0], grid[-1], (batch, d))
    x = jnp.asarray(np.interp(u, grid, distribution(sde, 1.0)[1](grid)), jnp.float32)
    ts = grids.quadratic(sde, steps, end=END)
    end = np.asarray(sample(jax.random.key(2), stochastic, Mixture(sde), sde, ts, x, denoise_last=False).x)
    shares = np.linspace(0.1, 0.9, 9)
    found = np.array([np.mean(end < point) for point in distribution(sde, END)[1](shares)])
    assert np.all(np.abs(found - shares) < 0.03), found - shares
