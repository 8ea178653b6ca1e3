r"""Multistep samplers: one network call a step, and past predictions in the place of further calls.

A sampler chooses the prediction that it remembers, :math:`F = a \hat x_0 + b \hat\epsilon`. A step
from t to s is

.. math::
    x &\leftarrow x + \sum_{j \ge 0} \text{correction}_j F_{n-j}, \\
    x_s &= \text{keep}\,x + \text{data}\,\hat x_0 + \text{noise}\,\hat\epsilon
    + \sum_{j \ge 1} \text{past}_j F_{n-j} + \text{noise\_scale}\,z .

The first line is what a predictor-corrector adds once it knows the prediction at the point it went
to: the difference between the weights of its corrector and of its predictor. Steps with fewer
predictions, at the start of a walk, and the last step to zero noise are steps in which some weights
are 0.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .base import Sampler, normal
from .checks import known_zero
from .exponential import half_log_snr, stretched
from .signal import signal_and_noise


class MultistepCoefficients(NamedTuple):
    """The coefficients of one step; in a plan each has the leading axis `steps`."""

    t: Array  # the time at which the network is called
    keep: Array  # of the state
    data: Array  # of the expected clean data
    noise: Array  # of the expected noise
    prediction_data: Array  # a of F = a x0 + b noise
    prediction_noise: Array  # b of F = a x0 + b noise
    past: Array  # (m,) of F_{n-1}, F_{n-2}, ...
    correction: Array  # (m + 1,) of F_n, F_{n-1}, ...; (0,) without a corrector
    noise_scale: Array  # of the fresh noise


class Multistep(Sampler):
    """A sampler that only has to plan `MultistepCoefficients`; one network call a step.

    Attributes:
        past_predictions: how many past predictions a step uses, the m of `MultistepCoefficients`.
    """

    if TYPE_CHECKING:  # which takes an AbstractVar for an argument of the constructor
        past_predictions: ClassVar[int]
    else:
        past_predictions: eqx.AbstractVar[int]

    def init(self, x: Array) -> tuple[Array, ...]:
        """Return zeros for the predictions before the first step, whose weights are 0."""
        return (jnp.zeros_like(x),) * self.past_predictions

    def step(
        self,
        keys,
        denoise,
        x: Array,
        coefficients: MultistepCoefficients,
        memory: tuple[Array, ...],
        cond: Any,
    ) -> tuple[Array, tuple[Array, ...]]:
        """Take one step; the memory holds past predictions, newest first. See `Sampler.step`."""
        x0, noise = denoise(x, coefficients.t, cond)
        prediction = coefficients.prediction_data * x0 + coefficients.prediction_noise * noise
        predictions = (prediction, *memory)
        if coefficients.correction.shape[0]:
            x = x + _weighted_sum(coefficients.correction, predictions)
        mean = coefficients.keep * x + coefficients.data * x0 + coefficients.noise * noise
        mean = mean + _weighted_sum(coefficients.past, memory)
        if self.stochastic:
            mean = mean + coefficients.noise_scale * normal(keys, x)
        return mean, predictions[: len(memory)]


def _weighted_sum(weights: Iterable[Array], values: tuple[Array, ...]) -> Array | int:
    """Return the sum of `values` times `weights`, one weight for each; 0 if there are none."""
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def data_prediction_plan(
    sde: SDE, ts: Array, weights: Array, eta: float = 0.0
) -> MultistepCoefficients:
    r"""Return the plan of a solver on the data prediction, for the weights (steps, m + 1).

    .. math:: x_s = (\sigma_s / \sigma_t) e^{-\eta h} x + \alpha_s \sum_j w_j \hat x_{0, n-j}
        + \sigma_s \sqrt{1 - e^{-2 \eta h}}\,z
    """
    alpha, sigma = signal_and_noise(sde, ts)
    h = jnp.diff(half_log_snr(sde, ts))
    zeros, ones = jnp.zeros_like(ts[1:]), jnp.ones_like(ts[1:])
    data = alpha[1:, None] * weights
    decay = ones
    noise_scale = zeros
    if not known_zero(eta):
        # A traced eta may be 0, which forgets nothing even in an endless step.
        forgotten = jnp.where(eta > 0, stretched(h, eta), 0.0)
        decay = jnp.exp(-forgotten)
        noise_scale = sigma[1:] * jnp.sqrt(-jnp.expm1(-2 * forgotten))
    return MultistepCoefficients(
        t=ts[:-1],
        keep=decay * sigma[1:] / sigma[:-1],
        data=data[:, 0],
        noise=zeros,
        prediction_data=ones,
        prediction_noise=zeros,
        past=data[:, 1:],
        correction=data[:, :0],
        noise_scale=noise_scale,
    )


def noise_prediction_plan(sde: SDE, ts: Array, weights: Array) -> MultistepCoefficients:
    r"""Return the plan of a solver on the noise prediction, for the weights (steps, m + 1).

    .. math:: x_s / \alpha_s = x_t / \alpha_t + \sum_j w_j \hat\epsilon_{n-j},

    written so that alpha may be 0 at t: :math:`x_s = \alpha_s \hat x_0 + \sigma_s \hat\epsilon
    + \alpha_s \sum_{j \ge 1} w_j (\hat\epsilon_{n-j} - \hat\epsilon_n)`.
    """
    alpha, sigma = signal_and_noise(sde, ts)
    zeros, ones = jnp.zeros_like(ts[1:]), jnp.ones_like(ts[1:])
    past = alpha[1:, None] * weights[:, 1:]
    return MultistepCoefficients(
        t=ts[:-1],
        keep=zeros,
        data=alpha[1:],
        noise=sigma[1:] - jnp.sum(past, 1),
        prediction_data=zeros,
        prediction_noise=ones,
        past=past,
        correction=past[:, :0],
        noise_scale=zeros,
    )
