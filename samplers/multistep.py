r"""Multistep samplers: one network call a step, and the past predictions of the network in its place.

With F one of the predictions a sampler may choose, :math:`F = a \hat x_0 + b \hat\epsilon`, a step from t to s is

.. math::
    x \leftarrow x + \sum_{j \ge 0} \text{correct}_j F_{n-j}, \qquad
    x_s = \text{keep}\,x + \text{data}\,\hat x_0 + \text{noise}\,\hat\epsilon + \sum_{j \ge 1} \text{past}_j F_{n-j} + \text{spread}\,z,

the first being what a predictor-corrector adds once it knows the prediction at the point it went to: the difference between the weights of
its corrector and of its predictor. Warm-up, lower-order steps and the last step to zero noise are rows whose weights are 0.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .base import Sampler, normal
from .checks import known_zero
from .exponential import half_log_snr, stretched
from .signal import signal_and_noise


class Row(NamedTuple):
    """Coefficients of one step; the leading axis of a plan counts the steps."""

    t: Array
    keep: Array
    data: Array
    noise: Array
    a: Array
    b: Array
    past: Array  # (m,) weights of F_{n-1}, F_{n-2}, ...
    correct: Array  # (m + 1,) weights of F_n, F_{n-1}, ...; (0,) without a corrector
    spread: Array


class Multistep(Sampler):
    """A sampler that only has to plan rows of `Row`, with `memory` past predictions."""

    @property
    def memory(self) -> int:
        """How many past predictions a step uses."""
        return self.order - 1

    def init(self, x: Array) -> tuple[Array, ...]:
        return (jnp.zeros_like(x),) * self.memory

    def step(
        self, keys, denoise, x: Array, row: Row, memory: tuple[Array, ...], cond: Any
    ) -> tuple[Array, tuple[Array, ...]]:
        x0, noise = denoise(x, row.t, cond)
        now = row.a * x0 + row.b * noise
        known = (now, *memory)
        x = x + sum(weight * value for weight, value in zip(row.correct, known, strict=False))
        mean = row.keep * x + row.data * x0 + row.noise * noise
        mean = mean + sum(weight * value for weight, value in zip(row.past, memory, strict=True))
        return (mean + row.spread * normal(keys, x) if self.stochastic else mean), known[
            : len(memory)
        ]


def data_rows(sde: SDE, ts: Array, w: Array, eta: float = 0.0) -> Row:
    r"""Return the rows :math:`x_s = (\sigma_s / \sigma_t) e^{-\eta h} x + \alpha_s \sum_j w_j \hat x_{0, n-j} + \text{spread}\,z`."""
    (alpha, sigma), h = signal_and_noise(sde, ts), jnp.diff(half_log_snr(sde, ts))
    one, past = jnp.ones_like(ts[1:]), alpha[1:, None] * w
    decay, spread = one, 0 * one
    if not known_zero(eta):
        # A traced eta may be 0, which forgets nothing even in an endless step.
        forgotten = jnp.where(eta > 0, stretched(h, eta), 0.0)
        decay = jnp.exp(-forgotten)
        spread = sigma[1:] * jnp.sqrt(-jnp.expm1(-2 * forgotten))
    return Row(
        ts[:-1],
        decay * sigma[1:] / sigma[:-1],
        past[:, 0],
        0 * one,
        one,
        0 * one,
        past[:, 1:],
        past[:, :0],
        spread,
    )


def noise_rows(sde: SDE, ts: Array, w: Array) -> Row:
    r"""Return :math:`x_s = \alpha_s \hat x_0 + \sigma_s \hat\epsilon + \alpha_s \sum_{j \ge 1} w_j (\hat\epsilon_{n-j} - \hat\epsilon_n)`.

    That is :math:`x_s / \alpha_s = x_t / \alpha_t + \sum_j w_j \hat\epsilon_{n-j}`, written so that alpha may be 0 at t.
    """
    (alpha, sigma), one = signal_and_noise(sde, ts), jnp.ones_like(ts[1:])
    past = alpha[1:, None] * w[:, 1:]
    noise = sigma[1:] - jnp.sum(past, 1)
    return Row(ts[:-1], 0 * one, alpha[1:], noise, 0 * one, one, past, past[:, :0], 0 * one)
