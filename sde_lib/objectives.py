r"""Denoising score matching in continuous time, and the distributions of its times.

For x0 from the data, t from a time distribution and x_t = alpha x0 + sigma noise, the loss of one sample is

.. math:: w_t \, \tfrac1d \| F(x_t, t) - (a_t x_0 + b_t \epsilon) \|^2,

F the network output, (a, b) the prediction and w the weighting of `denoiser.py` (Song et al. 2021, arXiv:2011.13456, eq. 7).
A time distribution is its quantile function, so that stratified draws need no further code.
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

from .base import SDE, expand, in_float64
from .denoiser import WEIGHTINGS, Denoiser, check_name


class TimeDistribution(eqx.Module):
    """Where in [t_min, 1] training times fall."""

    @abc.abstractmethod
    def quantile(self, sde: SDE, u: Array) -> Array:
        """Return the time below which a fraction `u` of the draws lies, elementwise."""


class Uniform(TimeDistribution):
    """Uniform in t (Song et al. 2021)."""

    def quantile(self, sde: SDE, u: Array) -> Array:
        return sde.t_min + (1 - sde.t_min) * u


class LogUniform(TimeDistribution):
    """Uniform in the log-SNR, between those of t_min and 1, or not below `log_snr_min`.

    Raises:
        ValueError: the log-SNR is infinite at an end.
    """

    log_snr_min: float = -math.inf

    def quantile(self, sde: SDE, u: Array) -> Array:
        ends = in_float64(lambda sde: sde.log_snr(jnp.asarray([sde.t_min, 1.0])), sde)
        clean, noisy = ends[0], jnp.maximum(ends[1], self.log_snr_min)
        if not isinstance(ends, Tracer) and not np.all(np.isfinite([ends[0], max(ends[1], self.log_snr_min)])):
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


def draw_times(
    key: Key[Array, ""], sde: SDE, batch: int, distribution: TimeDistribution, stratified: bool = True
) -> Float[Array, " batch"]:
    """Draw one time a sample; stratified draws put one in each of `batch` equal parts of the distribution, which cuts the variance."""
    u = jax.random.uniform(key, (batch,))
    return distribution.quantile(sde, (jnp.arange(batch) + u) / batch if stratified else u)


def denoising_loss(
    key: Key[Array, ""],
    denoiser: Denoiser,
    x0: Float[Array, "batch ..."],
    t: Float[Array, " batch"],
    cond: Any = None,
    weighting: str = "prediction",
) -> Float[Array, " batch"]:
    """Return the denoising score-matching loss of each sample, a mean over its dimensions.

    A constant weight 1 under prediction "edm" is EDM's loss; "noise" is DDPM's and score_sde's, "likelihood" that of arXiv:2101.09258.
    """
    check_name("weighting", weighting, WEIGHTINGS)
    sde, time = denoiser.sde, expand(t, x0)
    x, noise = sde.perturb(key, x0, t)
    (alpha, sigma), (a, b) = sde.marginal(time), denoiser.combination(time)
    weight = WEIGHTINGS[weighting](sde, time, b * alpha - a * sigma)
    error = denoiser.output(x, t, cond) - (a * x0 + b * noise)
    return jnp.mean(weight * error**2, axis=tuple(range(1, x0.ndim)))
