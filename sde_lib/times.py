r"""Where training times fall.

A time distribution is its quantile function, so that stratified draws need no further code. With
the log-SNR :math:`\lambda`, every linear SDE has :math:`g^2 / \sigma^2 = -d\lambda / dt`. So times
drawn in proportion to :math:`g^2 / \sigma^2`, the importance sampling of likelihood training (Song
et al. 2021, arXiv:2101.09258, section 4.3), are uniform in :math:`\lambda`: `LogUniform`, whose
inverse distribution function is `SDE.time`, in closed form or by bisection. Weighting "noise" then
is the likelihood weighting under uniform times, divided by the constant
:math:`Z = \lambda_{t_{\min}} - \lambda_1`.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .arrays import in_float64
from .base import SDE, check_process
from .checks import check_numbers, known

# What a distribution of times must have between the ends of a process; float32 resolves
# probabilities to 1e-7.
SMALLEST_MASS = 1e-4


class TimeDistribution(eqx.Module):
    """Where in [t_min, 1] training times fall.

    In float32 the largest quantiles may round to 1, where every weight and every network's time
    signal is finite.
    """

    @abc.abstractmethod
    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the time below which a fraction `u` of the draws lies, elementwise.

        Args:
            sde: the process.
            u: fractions in [0, 1), of any shape.
        """

    def correction(self, u: Array) -> Array:
        """Return the factor on the loss at the time of `u`, elementwise; 1 by default.

        It lets a distribution draw other times without changing the expected loss.
        """
        return jnp.ones_like(u)


def check_distribution(distribution: Any) -> None:
    """Raise a ValueError unless `distribution` is a distribution of times."""
    if not isinstance(distribution, TimeDistribution):
        raise ValueError(f"need a distribution of times such as Uniform(), got {distribution!r}")


class Uniform(TimeDistribution):
    """Uniform in t (Song et al. 2021)."""

    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return t_min + (1 - t_min) u, elementwise."""
        return sde.t_min + (1 - sde.t_min) * u


class LogUniform(TimeDistribution):
    """Uniform in the log-SNR: times in proportion to g^2 / sigma^2.

    Attributes:
        log_snr_min: the log-SNR of the noisiest times, if that at t = 1 is lower.
    """

    log_snr_min: float = -math.inf

    def __check_init__(self):
        check_numbers(
            "log_snr_min below infinity",
            lambda least: least < math.inf,
            self.log_snr_min,
            infinite=True,
        )

    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the times of the quantiles `u`, elementwise; see `TimeDistribution.quantile`.

        Raises:
            ValueError: the log-SNR is infinite at an end.
        """
        ends = in_float64(_log_snr_at_ends, sde)
        clean = ends[0]
        noisy = jnp.maximum(ends[1], self.log_snr_min)
        if known(ends, self.log_snr_min) and self.log_snr_min >= ends[0]:
            raise ValueError(
                f"need log_snr_min below the log-SNR {ends[0]:g} that {type(sde).__name__} has at "
                f"t_min = {sde.t_min}, got {self.log_snr_min}; "
                "noisy times have negative ones, -10, say"
            )
        if known(ends, self.log_snr_min) and not np.all(
            np.isfinite([clean, max(ends[1], self.log_snr_min)])
        ):
            raise ValueError(
                f"the log-SNR of {type(sde).__name__} runs from {ends[0]:g} at t_min = {sde.t_min} "
                f"to {ends[1]:g} at 1, where nothing is uniform; raise t_min above 0, "
                "set log_snr_min (-10, say), or take another distribution of times"
            )
        clean, noisy = jnp.asarray(clean, u.dtype), jnp.asarray(noisy, u.dtype)
        return jnp.maximum(sde.time(clean + u * (noisy - clean)), sde.t_min)


class LogNormal(TimeDistribution):
    """Normal in log(sigma / alpha), cut to [t_min, 1].

    The defaults are those of EDM (Karras et al. 2022, arXiv:2206.00364, table 1).

    Attributes:
        mean: of log(sigma / alpha).
        std: of log(sigma / alpha).
    """

    mean: float = -1.2
    std: float = 1.2

    def __check_init__(self):
        check_numbers("a finite mean", lambda mean: mean < math.inf, self.mean)
        check_numbers("std > 0 and finite", lambda std: std > 0, self.std)

    def _check_meets(self, sde: SDE) -> None:
        """Raise a ValueError if hardly any of the distribution lies at noise levels of the process.

        Then all times would fall on one end.
        """
        if not known(self, sde):
            return
        low, high = -0.5 * in_float64(_log_snr_at_ends, sde)
        below_low, below_high = (_normal_cdf((v - self.mean) / self.std) for v in (low, high))
        within = below_high - below_low
        if not within > SMALLEST_MASS:
            raise ValueError(
                "need a LogNormal at noise levels of the process: log(sigma / alpha) of "
                f"{type(sde).__name__} runs from {low:g} to {high:g}, of which "
                f"mean = {self.mean} and std = {self.std} meet {within:.1e}; "
                "move the mean between them"
            )

    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the times of the quantiles `u`, elementwise; see `TimeDistribution.quantile`.

        Raises:
            ValueError: hardly any of the distribution lies at noise levels of the process.
        """
        self._check_meets(sde)
        ends = -0.5 * sde.log_snr(jnp.asarray([sde.t_min, 1.0], u.dtype))
        low, high = jax.scipy.stats.norm.cdf((ends - self.mean) / self.std)
        level = self.mean + self.std * jax.scipy.stats.norm.ppf(low + u * (high - low))
        return jnp.maximum(sde.time(-2 * level), sde.t_min)


class Levels(TimeDistribution):
    """Uniform on the n levels of a `Discrete` process, as DDPM and SMLD are trained."""

    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the times i / n of the quantiles `u`, elementwise; see
        `TimeDistribution.quantile`.

        Raises:
            ValueError: the process has no discrete noise levels.
        """
        n = sde.label(jnp.ones((), u.dtype)) + 1
        return jnp.clip(jnp.ceil(u * n), 1, n) / n


class Binned(TimeDistribution):
    """Another distribution, some parts of which are drawn more often than others.

    The quantiles of `base` are divided into equal parts, and the k-th part is drawn in proportion
    to `weights[k]`. The correction leaves the expected loss as it is. The loss varies least for
    weights proportional to its root mean square in each part (Nichol and Dhariwal 2021,
    arXiv:2102.09672, section 3.3), which `reweighted` measures.

    Attributes:
        base: the distribution.
        weights: (bins,) of its parts, with a mean of 1.
    """

    base: TimeDistribution
    weights: Float[Array, " bins"]

    def __init__(self, base: TimeDistribution, weights: Any):
        """Keep `weights` (bins,), normalised to a mean of 1.

        Raises:
            ValueError: a weight that is not above 0.
        """
        weights = jnp.asarray(weights, float)
        check_distribution(base)
        check_numbers(
            "a vector of weights > 0",
            lambda weights: weights.ndim == 1 and weights.size > 0 and np.all(weights > 0),
            weights,
            remedy="add a little to parts that are never to be left out",
        )
        self.base = base
        self.weights = weights / jnp.mean(weights)

    def _part(self, u: Array) -> tuple[Array, Array]:
        """Return the number k of the part that `u` falls into, and how far in, from 0 to 1.

        Both are elementwise.
        """
        ends = jnp.cumsum(self.weights) / len(self.weights)
        k = jnp.minimum(jnp.searchsorted(ends, u, side="right"), len(self.weights) - 1)
        return k, jnp.clip((u - ends[k]) * len(self.weights) / self.weights[k] + 1, 0, 1)

    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the times of the quantiles `u`, elementwise; see `TimeDistribution.quantile`."""
        k, part = self._part(u)
        return self.base.quantile(sde, _inside(k, part, len(self.weights)))

    def correction(self, u: Array) -> Array:
        """Return 1 / weight of the part that `u` falls into, elementwise."""
        return 1 / self.weights[self._part(u)[0]]


def reweighted(
    distribution: Binned,
    u: Float[Array, " batch"],
    loss: Float[Array, " batch"],
    floor: float = 0.1,
) -> Binned:
    """Return a distribution with the weights that measured losses call for.

    Args:
        distribution: the one that the times were drawn from.
        u: quantiles of these times.
        loss: losses at them, without the correction.
        floor: no weight is below this part of their mean.
    """
    k = distribution._part(u)[0]
    bins = len(distribution.weights)
    count, total = (jnp.zeros(bins).at[k].add(v) for v in (jnp.ones_like(loss), loss**2))
    rms = jnp.sqrt(total / jnp.maximum(count, 1))
    mean = jnp.sum(rms) / jnp.maximum(jnp.sum(count > 0), 1)
    return Binned(distribution.base, jnp.where(count > 0, jnp.maximum(rms, floor * mean), mean))


def draw_quantiles(
    key: Key[Array, ""], batch: int, stratified: bool = True
) -> Float[Array, " batch"]:
    """Draw numbers u (batch,) in [0, 1) for `TimeDistribution.quantile`.

    Stratified, there is one in each of `batch` equal parts; otherwise they are independent.
    """
    u = jax.random.uniform(key, (batch,))
    return _inside(jnp.arange(batch), u, batch) if stratified else u


def _inside(part: Array, fraction: Array, parts: int) -> Array:
    """Return the number in [0, 1) a `fraction` of the way through one of `parts` equal parts.

    It never lies in the next part. In float32 the sum of a part's number and a fraction below 1 may
    round to the number of the next part.
    """
    end = jnp.asarray((part + 1) / parts, fraction.dtype)
    below = 1 - 2 * jnp.finfo(fraction.dtype).eps  # the end itself may have been rounded up
    return jnp.minimum((part + fraction) / parts, end * below)


def _log_snr_at_ends(sde: SDE) -> Array:
    """Return the log-SNR (2,) at t_min and at 1."""
    return sde.log_snr(jnp.asarray([sde.t_min, 1.0]))


def _normal_cdf(value: float) -> float:
    """Return the distribution function of the standard normal distribution."""
    return 0.5 * math.erfc(-value / math.sqrt(2))


def draw_times(
    key: Key[Array, ""],
    sde: SDE,
    batch: int,
    distribution: TimeDistribution,
    stratified: bool = True,
) -> Float[Array, " batch"]:
    """Draw one time a sample, (batch,).

    Args:
        key: draws the quantiles.
        sde: the process.
        batch: how many times.
        distribution: of the times.
        stratified: put one time in each of `batch` equal parts of the distribution, which reduces
            the variance of the mean loss.

    Raises:
        ValueError: no process, no distribution, or one that does not fit the process.
    """
    check_process("draw_times", sde)
    check_distribution(distribution)
    return distribution.quantile(sde, draw_quantiles(key, batch, stratified))
