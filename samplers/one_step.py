r"""Samplers that evaluate the network once a step and combine what they know linearly.

With the estimate :math:`(\hat x_0, \hat\epsilon)` at time t, a step to s is

.. math::
    x_s = \text{keep}\; x_t + \text{data}\; \hat x_0 + \text{noise}\; \hat\epsilon
    + \text{noise\_scale}\; z,

with z standard normal, so that such a sampler is nothing but the formulas of its four coefficients.
"""

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .base import Sampler, normal
from .signal import signal_and_noise


class OneStepCoefficients(NamedTuple):
    """The coefficients of one step, each a number; in a plan each is a vector (steps,)."""

    t: Array  # the time at which the network is called
    keep: Array  # of the state
    data: Array  # of the expected clean data
    noise: Array  # of the expected noise
    noise_scale: Array  # of the fresh noise


class Transition(NamedTuple):
    """The forward process between the two ends of each step: x_t = ratio x_s + sqrt(variance) z.

    Every field is a vector (steps,).
    """

    t: Array
    alpha: Array  # at t
    sigma: Array  # at t
    alpha_s: Array  # at s < t
    sigma_s: Array  # at s < t
    ratio: Array  # alpha / alpha_s, the A of the papers
    variance: Array  # G^2 of the papers


def transitions(sde: SDE, ts: Array) -> Transition:
    """Return the forward transition of every step of the grid `ts` (steps + 1,).

    It is called inside of a plan, where it runs in float64.
    """
    alpha, sigma = signal_and_noise(sde, ts)
    ratio = alpha[:-1] / alpha[1:]
    variance = jnp.maximum(sigma[:-1] ** 2 - (ratio * sigma[1:]) ** 2, 0.0)
    return Transition(
        t=ts[:-1],
        alpha=alpha[:-1],
        sigma=sigma[:-1],
        alpha_s=alpha[1:],
        sigma_s=sigma[1:],
        ratio=ratio,
        variance=variance,
    )


class OneStep(Sampler):
    """A sampler that only has to plan `OneStepCoefficients`."""

    order: ClassVar[int] = 1

    def step(
        self,
        keys,
        denoise,
        x: Array,
        coefficients: OneStepCoefficients,
        memory: Any,
        cond: Any,
    ) -> tuple[Array, Any]:
        """Take one step with one network call; see `Sampler.step`."""
        x0, noise = denoise(x, coefficients.t, cond)
        mean = coefficients.keep * x + coefficients.data * x0 + coefficients.noise * noise
        if not self.stochastic:
            return mean, memory
        return mean + coefficients.noise_scale * normal(keys, x), memory
