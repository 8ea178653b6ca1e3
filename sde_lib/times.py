r"""Where training times fall. A time distribution is its quantile function, so that stratified draws need no further code.

With the log-SNR :math:`\lambda`, every linear SDE has :math:`g^2 / \sigma^2 = -d\lambda / dt`. So times drawn in proportion to
:math:`g^2 / \sigma^2`, the importance sampling of likelihood training (Song et al. 2021, arXiv:2101.09258, section 4.3), are uniform in
:math:`\lambda`: `LogUniform`, whose inverse distribution function is `SDE.time`, in closed form or by bisection. Weighting "noise" then is
the likelihood weighting under uniform times, divided by the constant :math:`Z = \lambda_{t_{\min}} - \lambda_1`.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from .base import SDE, in_float64


class TimeDistribution(eqx.Module):
    """Where in [t_min, 1] training times fall."""

    @abc.abstractmethod
    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the time below which a fraction `u` of the draws lies, elementwise."""

    def correction(self, u: Array) -> Array:
        """Return the factor on the loss at the time of `u`, elementwise: 1 unless where times fall is to leave the expected loss alone."""
        return jnp.ones_like(u)


class Uniform(TimeDistribution):
    """Uniform in t (Song et al. 2021)."""

    def quantile(self, sde: SDE, u: Array) -> Array:
        return sde.t_min + (1 - sde.t_min) * u


class LogUniform(TimeDistribution):
    """Uniform in the log-SNR, between those of t_min and 1, or not below `log_snr_min`: in proportion to g^2 / sigma^2.

    Raises:
        ValueError: the log-SNR is infinite at an end.
    """

    log_snr_min: float = -math.inf

    def quantile(self, sde: SDE, u: Array) -> Array:
        ends = in_float64(lambda sde: sde.log_snr(jnp.asarray([sde.t_min, 1.0])), sde)
        clean, noisy = ends[0], jnp.maximum(ends[1], self.log_snr_min)
        if not isinstance(ends, Tracer) and not np.all(
            np.isfinite([ends[0], max(ends[1], self.log_snr_min)])
        ):
            raise ValueError(
                f"the log-SNR of {type(sde).__name__} runs from {ends[0]:g} at t_min = {sde.t_min} to {ends[1]:g} at 1, where nothing is "
                "uniform; raise t_min above 0, set log_snr_min (-10, say), or take another distribution of times"
            )
        clean, noisy = jnp.asarray(clean, u.dtype), jnp.asarray(noisy, u.dtype)
        return jnp.maximum(sde.time(clean + u * (noisy - clean)), sde.t_min)


class LogNormal(TimeDistribution):
    """Normal in log(sigma / alpha), cut to [t_min, 1] (Karras et al. 2022, arXiv:2206.00364, table 1: mean -1.2, std 1.2)."""

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, sde: SDE, u: Array) -> Array:
        ends = -0.5 * sde.log_snr(jnp.asarray([sde.t_min, 1.0], u.dtype))
        low, high = jax.scipy.stats.norm.cdf((ends - self.mean) / self.std)
        level = self.mean + self.std * jax.scipy.stats.norm.ppf(low + u * (high - low))
        return jnp.maximum(sde.time(-2 * level), sde.t_min)


class Levels(TimeDistribution):
    """Uniform on the n levels of a `Discrete` process, as DDPM and SMLD are trained."""

    def quantile(self, sde: SDE, u: Array) -> Array:
        n = sde.label(jnp.ones((), u.dtype)) + 1
        return jnp.clip(jnp.ceil(u * n), 1, n) / n


class Binned(TimeDistribution):
    """The draws of `base`, moved to where they tell more: the k-th of equal parts of its quantiles is met in proportion to `weights[k]`.

    The correction keeps the expected loss as it is. Its variance is smallest for weights proportional to the root mean square of the loss
    in each part (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.3), which `adapted` measures.
    """

    base: TimeDistribution
    weights: Float[Array, " bins"]

    def __init__(self, base: TimeDistribution, weights: Any):
        """Keep `weights` (bins,), normalised to a mean of 1.

        Raises:
            ValueError: a weight that is not above 0.
        """
        weights = jnp.asarray(weights, float)
        if not isinstance(weights, Tracer) and not (
            weights.ndim == 1 and bool(jnp.all(weights > 0))
        ):
            raise ValueError(
                f"need a vector of weights > 0, got {weights}; add a little to parts that are never to be left out"
            )
        self.base, self.weights = base, weights / jnp.mean(weights)

    def _part(self, u: Array) -> tuple[Array, Array]:
        """Return the part k that `u` falls into and how far in, from 0 to 1."""
        ends = jnp.cumsum(self.weights) / len(self.weights)
        k = jnp.minimum(jnp.searchsorted(ends, u, side="right"), len(self.weights) - 1)
        return k, jnp.clip((u - ends[k]) * len(self.weights) / self.weights[k] + 1, 0, 1)

    def quantile(self, sde: SDE, u: Array) -> Array:
        k, part = self._part(u)
        return self.base.quantile(sde, (k + part) / len(self.weights))

    def correction(self, u: Array) -> Array:
        return 1 / self.weights[self._part(u)[0]]


def adapted(
    distribution: Binned,
    u: Float[Array, " batch"],
    loss: Float[Array, " batch"],
    floor: float = 0.1,
) -> Binned:
    """Return `distribution` with the weights that uncorrected losses at the times of `u` call for, none below `floor` of their mean."""
    k = distribution._part(u)[0]
    bins = len(distribution.weights)
    count, total = (jnp.zeros(bins).at[k].add(v) for v in (jnp.ones_like(loss), loss**2))
    rms = jnp.sqrt(total / jnp.maximum(count, 1))
    mean = jnp.sum(rms) / jnp.maximum(jnp.sum(count > 0), 1)
    return Binned(distribution.base, jnp.where(count > 0, jnp.maximum(rms, floor * mean), mean))


def draw_quantiles(
    key: Key[Array, ""], batch: int, stratified: bool = True
) -> Float[Array, " batch"]:
    """Draw numbers u in [0, 1) for `TimeDistribution.quantile`: one in each of `batch` equal parts, or independently."""
    u = jax.random.uniform(key, (batch,))
    return (jnp.arange(batch) + u) / batch if stratified else u


def draw_times(
    key: Key[Array, ""],
    sde: SDE,
    batch: int,
    distribution: TimeDistribution,
    stratified: bool = True,
) -> Float[Array, " batch"]:
    """Draw one time a sample; stratified draws put one in each of `batch` equal parts of the distribution, which cuts the variance."""
    return distribution.quantile(sde, draw_quantiles(key, batch, stratified))
