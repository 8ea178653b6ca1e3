r"""Samplers on a mixture, where the flow is curved and a Gaussian would hide errors.

In one dimension the probability flow keeps quantiles, so with F_t the distribution function of p_t its exact map is
:math:`x_s = F_s^{-1}(F_t(x_t))`: an oracle that knows neither score nor drift.
"""

import equinox as eqx
import jax
import numpy as np
import pytest
from scipy import optimize, stats

from samplers import PredictorCorrector, grids
from sde_lib import VE, VP, Estimate, in_float64
from tests.samplers.eager import END, smooth_grid, supply, walk

WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.3, 0.4])


def estimate(x, alpha, sigma):
    """Return the exact estimate for data whose coordinates are independent draws from the mixture."""
    variance, off = (alpha * STDS) ** 2 + sigma**2, x[..., None] - alpha * MEANS
    joint = np.log(WEIGHTS / np.sqrt(variance)) - 0.5 * off**2 / variance
    r = np.exp(joint - joint.max(-1, keepdims=True))
    r /= r.sum(-1, keepdims=True)
    x0 = np.sum(r * (MEANS + alpha * STDS**2 / variance * off), -1)
    return Estimate(x0, sigma * np.sum(r * off / variance, -1))


def distribution(sde, t):
    """Return the distribution function of p_t and its inverse."""
    alpha, sigma = in_float64(sde.marginal, t)
    deviations = np.hypot(alpha * STDS, sigma)

    def below(x):
        return stats.norm.cdf((np.asarray(x)[..., None] - alpha * MEANS) / deviations) @ WEIGHTS

    reach = alpha * np.abs(MEANS).max() + 9 * deviations.max()
    return below, np.vectorize(
        lambda p: optimize.brentq(lambda x: below(x) - p, -reach, reach, xtol=1e-15, rtol=1e-14)
    )


# A method that knows times only through the noise level treats all processes alike, as test_gaussian.py shows for every one of them.
TWO = pytest.mark.parametrize("sde", [VP(), VE()], ids=["VP", "VE"])


@TWO
def test_end_points_converge_to_the_exact_flow_with_the_declared_order(deterministic, sde):
    quantiles = np.linspace(0.02, 0.98, 41)
    start, exact = (distribution(sde, t)[1](quantiles)[:, None] for t in (1.0, END))
    with jax.enable_x64(True):
        ends = [
            walk(deterministic, sde, smooth_grid(deterministic, n), start, estimate)
            for n in (256, 512)
        ]
    error = [np.median(np.abs(end - exact)) for end in ends]
    slope = np.log2(error[0] / error[1])
    assert error[1] < 0.03, f"off by {error} where the data have standard deviations of 0.3 and 0.4"
    assert abs(slope - deterministic.order) < 0.3, (
        f"declared {deterministic.order}, measured {slope}, errors {error}"
    )


@TWO
def test_samples_have_the_distribution_that_they_should(stochastic, sde, monkeypatch):
    # 256 x 64 independent values, started from p_1. The share of them below a point has a standard deviation of at most 0.0039; five of
    # them, 0.0195, are exceeded at one of nine points with probability 5e-6 (a false alarm). At 100 steps discretisation moves a share
    # by up to 0.01.
    batch, d, steps = 256, 64, 100
    if isinstance(
        stochastic, PredictorCorrector
    ):  # a corrector of finite step has a law of its own, wider by snr^2
        stochastic = eqx.tree_at(lambda s: s.corrector.snr, stochastic, 0.04)
    rng, dense = np.random.default_rng(1), 6 * float(sde.prior_std()) * np.linspace(-1, 1, 20001)
    x = np.interp(rng.uniform(size=(batch, d)), distribution(sde, 1.0)[0](dense), dense)
    supply(monkeypatch, lambda like: rng.standard_normal(like.shape))
    with jax.enable_x64(True):
        end = walk(stochastic, sde, grids.quadratic(sde, steps, end=END), x, estimate)
    shares = np.linspace(0.1, 0.9, 9)
    result = np.array([np.mean(end < point) for point in distribution(sde, END)[1](shares)])
    assert np.all(np.abs(result - shares) < 0.03), result - shares
