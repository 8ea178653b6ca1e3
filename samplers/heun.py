r"""Heun's method on the probability flow, with churn (Karras et al. 2022, arXiv:2206.00364, algorithm 2).

In :math:`y = x / \alpha` and :math:`r = \sigma / \alpha` the flow is :math:`dy/dr = \epsilon` for every SDE. A step first raises the
noise level from :math:`r_t` to :math:`\hat r = (1 + \gamma) r_t`, at the time :math:`\hat t`, by fresh noise,

.. math:: \hat x = \frac{\hat\alpha}{\alpha_t} x_t + \hat\alpha \sqrt{\hat r^2 - r_t^2}\,S_{\text{noise}} z,
    \qquad \gamma = \min(S_{\text{churn}} / n, \sqrt 2 - 1),

and then takes the DDIM step followed by the trapezoidal correction

.. math:: x_s \leftarrow x_s + \tfrac12 \alpha_s (r_s - \hat r)\,\big(\hat\epsilon(x_s, s) - \hat\epsilon(\hat x, \hat t)\big).
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


class Row(NamedTuple):
    t: Array  # after churn
    s: Array
    scale: Array  # alpha after churn over alpha before
    spread: Array
    data: Array  # alpha_s
    noise: Array  # sigma_s
    correct: (
        Array  # alpha_s (r_s - r_t) / 2; 0 in a step to zero noise, which then evaluates at t again
    )


class Heun(Sampler):
    """Second-order sampler; two network calls a step. With churn it is stochastic.

    Attributes:
        churn: S_churn of the paper, 0 for the probability flow; at most about 0.4 times the number of steps takes effect.
        s_min, s_max: noise levels sigma / alpha between which there is churn. It never raises the level above that of the grid's start.
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
        return not known_zero(self.churn)

    def plan(self, sde: SDE, ts: Array) -> Row:
        alpha, sigma = signal_and_noise(sde, ts)
        r, t, scale, spread = sigma / alpha, ts[:-1], jnp.ones_like(ts[1:]), jnp.zeros_like(ts[1:])
        high, alpha_high = r[:-1], alpha[:-1]
        if self.stochastic:
            gamma = jnp.minimum(self.churn / len(t), np.sqrt(2) - 1) * (
                (self.s_min <= high) & (high <= self.s_max)
            )
            high = jnp.minimum(high * (1 + gamma), r[0])
            raised = high > r[:-1]
            t = jnp.where(raised, sde.time_of_level(high), t)
            alpha_high = signal_and_noise(sde, t)[0]
            scale = jnp.where(raised, alpha_high / alpha[:-1], 1.0)
            # Where nothing is raised the slope of the root would be infinite.
            added = jnp.where(raised, high**2 - r[:-1] ** 2, 1.0)
            spread = jnp.where(raised, alpha_high * self.s_noise * jnp.sqrt(added), 0.0)
        inner = (sigma[1:] > 0) & jnp.isfinite(high)
        correct = jnp.where(inner, 0.5 * alpha[1:] * (r[1:] - jnp.where(inner, high, 0.0)), 0.0)
        return Row(t, jnp.where(inner, ts[1:], t), scale, spread, alpha[1:], sigma[1:], correct)

    def step(self, keys, denoise, x, row, memory, cond):
        if self.stochastic:
            x = row.scale * x + row.spread * normal(keys, x)
        x0, noise = denoise(x, row.t, cond)
        x = row.data * x0 + row.noise * noise
        return x + row.correct * (denoise(x, row.s, cond).noise - noise), memory
