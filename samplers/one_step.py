r"""Samplers that evaluate the network once a step and combine what they know linearly.

With the estimate :math:`(\hat x_0, \hat\epsilon)` at time t, a step to s is

.. math:: x_s = \text{keep}\; x_t + \text{data}\; \hat x_0 + \text{noise}\; \hat\epsilon + \text{spread}\; z,

with z standard normal, so that such a sampler is nothing but the formulas of its four coefficients.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .base import Sampler, normal
from .signal import signal_and_noise


class Row(NamedTuple):
    """Coefficients of one step; the leading axis of a plan counts the steps."""

    t: Array
    keep: Array
    data: Array
    noise: Array
    spread: Array


class Transition(NamedTuple):
    """The forward process between the two ends of each step: x_t = ratio x_s + sqrt(variance) noise."""

    t: Array
    alpha: Array  # at t
    sigma: Array
    alpha_s: Array  # at s < t
    sigma_s: Array
    ratio: Array
    variance: Array


def transitions(sde: SDE, ts: Array) -> Transition:
    """Return the forward transition of every step of a grid; call it inside a plan, where it runs in float64."""
    alpha, sigma = signal_and_noise(sde, ts)
    ratio = alpha[:-1] / alpha[1:]
    variance = jnp.maximum(sigma[:-1] ** 2 - (ratio * sigma[1:]) ** 2, 0.0)
    return Transition(ts[:-1], alpha[:-1], sigma[:-1], alpha[1:], sigma[1:], ratio, variance)


class OneStep(Sampler):
    """A sampler that only has to plan rows of `Row`."""

    order: ClassVar[int] = 1

    def step(self, keys, denoise, x: Array, row: Row, memory: Any, cond: Any) -> tuple[Array, Any]:
        x0, noise = denoise(x, row.t, cond)
        mean = row.keep * x + row.data * x0 + row.noise * noise
        return (mean + row.spread * normal(keys, x) if self.stochastic else mean), memory
