r"""Heun's method on the probability flow, with churn.

It is algorithm 2 of Karras et al. 2022, arXiv:2206.00364. In :math:`y = x / \alpha` and
:math:`r = \sigma / \alpha` the flow is :math:`dy/dr = \epsilon` for every SDE. A step first
raises the noise level from :math:`r_t` to :math:`\hat r = (1 + \gamma) r_t`, at the time
:math:`\hat t`, by fresh noise,

.. math:: \hat x = \frac{\hat\alpha}{\alpha_t} x_t
    + \hat\alpha \sqrt{\hat r^2 - r_t^2}\,S_{\text{noise}} z,
    \qquad \gamma = \min(S_{\text{churn}} / n, \sqrt 2 - 1),

and then takes the DDIM step followed by the trapezoidal correction

.. math:: x_s \leftarrow x_s + \tfrac12 \alpha_s (r_s - \hat r)\,
    \big(\hat\epsilon(x_s, s) - \hat\epsilon(\hat x, \hat t)\big).
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from sde_lib import SDE

from .base import Sampler, normal
from .checks import check_number, known_zero
from .signal import signal_and_noise


class HeunCoefficients(NamedTuple):
    """The coefficients of one step, each a number; in a plan each is a vector (steps,)."""

    t: Array  # after churn, where the first call is
    s: Array  # where the second call is: the end of the step, or t in a step to zero noise
    scale: Array  # alpha after churn over alpha before
    noise_scale: Array  # of the fresh noise
    data: Array  # alpha_s, of the expected clean data
    noise: Array  # sigma_s, of the expected noise
    correction: Array  # alpha_s (r_s - r_t) / 2, or 0 in a step to zero noise


class Churn(NamedTuple):
    """The start of each step after fresh noise has been added, as vectors (steps,)."""

    t: Array
    level: Array  # sigma / alpha at t
    scale: Array  # alpha at t over alpha before
    noise_scale: Array


class Heun(Sampler):
    """Second-order sampler; two network calls a step. With churn it is stochastic.

    Attributes:
        churn: S_churn of the paper, 0 for the probability flow; at most about 0.4 times the number
            of steps takes effect.
        s_min: lowest noise level sigma / alpha at which there is churn.
        s_max: highest such level. Churn never raises the level above that of the grid's start.
        s_noise: factor of the fresh noise; a little above 1 makes up for what a network loses.
    """

    order: ClassVar[int] = 2
    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = np.inf
    s_noise: float = 1.0

    def __check_init__(self):
        expected = "need churn >= 0, 0 <= s_min <= s_max and s_noise > 0"
        check_number(expected, lambda v: (v >= 0) & np.isfinite(v), churn=self.churn)
        check_number(expected, lambda v: v >= 0, s_min=self.s_min, s_max=self.s_max)
        check_number(expected, lambda v: (v > 0) & np.isfinite(v), s_noise=self.s_noise)
        ends = self.s_min, self.s_max
        if not any(isinstance(v, Tracer) for v in ends) and np.any(ends[0] > ends[1]):
            raise ValueError(f"{expected}, got s_min = {ends[0]} and s_max = {ends[1]}")

    @property
    def stochastic(self) -> bool:
        """Whether churn may be above 0; a traced churn counts as such."""
        return not known_zero(self.churn)

    def plan(self, sde: SDE, ts: Array) -> HeunCoefficients:
        """Return the coefficients of arXiv:2206.00364, algorithm 2; see `Sampler.plan`."""
        alpha, sigma = signal_and_noise(sde, ts)
        level = sigma / alpha
        start = Churn(
            t=ts[:-1],
            level=level[:-1],
            scale=jnp.ones_like(ts[1:]),
            noise_scale=jnp.zeros_like(ts[1:]),
        )
        if self.stochastic:
            start = self._churned(sde, ts[:-1], level[:-1], alpha[:-1])
        inner = (sigma[1:] > 0) & jnp.isfinite(start.level)
        step = level[1:] - jnp.where(inner, start.level, 0.0)
        return HeunCoefficients(
            t=start.t,
            s=jnp.where(inner, ts[1:], start.t),
            scale=start.scale,
            noise_scale=start.noise_scale,
            data=alpha[1:],
            noise=sigma[1:],
            correction=jnp.where(inner, 0.5 * alpha[1:] * step, 0.0),
        )

    def _churned(self, sde: SDE, t: Array, level: Array, alpha: Array) -> Churn:
        """Return the starts of the steps after churn, from those before it (steps,)."""
        gamma = jnp.minimum(self.churn / len(t), np.sqrt(2) - 1) * (
            (self.s_min <= level) & (level <= self.s_max)
        )
        high = jnp.minimum(level * (1 + gamma), level[0])
        raised = high > level
        t = jnp.where(raised, sde.time_of_level(high), t)
        alpha_high, _ = signal_and_noise(sde, t)
        # Where nothing is raised the slope of the root would be infinite.
        added = jnp.where(raised, high**2 - level**2, 1.0)
        return Churn(
            t=t,
            level=high,
            scale=jnp.where(raised, alpha_high / alpha, 1.0),
            noise_scale=jnp.where(raised, alpha_high * self.s_noise * jnp.sqrt(added), 0.0),
        )

    def step(self, keys, denoise, x, coefficients: HeunCoefficients, memory, cond):
        """Take one step of two network calls; see `Sampler.step`."""
        if self.stochastic:
            x = coefficients.scale * x + coefficients.noise_scale * normal(keys, x)
        x0, noise = denoise(x, coefficients.t, cond)
        x = coefficients.data * x0 + coefficients.noise * noise
        noise_at_end = denoise(x, coefficients.s, cond).noise
        return x + coefficients.correction * (noise_at_end - noise), memory
