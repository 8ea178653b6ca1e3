r"""Classifier guidance (arXiv:2011.13456, section 5; Dhariwal and Nichol 2021, arXiv:2105.05233).

With :math:`\ell = \log p(c \mid x_t)` of a classifier that was trained on noisy states, Bayes' rule
moves the score by :math:`w \nabla \ell`, and so

.. math:: D = D_u + w \frac{\sigma^2}{\alpha} \nabla \ell, \qquad
    \epsilon = \epsilon_u - w \sigma \nabla \ell .
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state
from ..base import NO_SIGNAL, SDE, check_process
from ..estimate import Estimate
from ..evaluations import evaluate, record_evaluations
from ..memory import recall
from .base import (
    Guidance,
    Interval,
    check_denoiser,
    check_interval,
    check_scale,
    marginal_at,
    scale_at,
    split,
)


class ClassifierGuidance(Guidance):
    """The estimate of a denoise function, moved up the log-probability of the condition.

    The classifier gets the conditions. The denoise function gets None, or, if `conditional`, the
    conditions as well; then it is moved by w - 1 in place of w, so that scale 1 is the conditional
    estimate in both cases (a conditional model of arXiv:2105.05233 with scale s is w = 1 + s). A
    call costs three evaluations: the denoiser, the classifier, and its gradient.

    Attributes:
        denoise: the denoise function.
        sde: its process.
        log_prob: (x, t, cond) -> (batch,), the log-probability in nats of the condition of each
            sample given its noisy state; t has shape () or (batch,). It works sample by sample.
        scale: 1 is the conditional estimate, 0 the unconditional one; any number may be traced.
            `Guided` as `cond` brings one for each sample.
        interval: (low, high) of the noise level sigma / alpha, outside of which the scale is 1
            (arXiv:2404.07724).
        conditional: whether `denoise` takes the conditions.
    """

    sde: SDE
    log_prob: Callable
    scale: float
    interval: Interval = None
    conditional: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        check_process("ClassifierGuidance", self.sde)
        check_denoiser("ClassifierGuidance", self.log_prob)
        check_scale(self.scale)
        check_interval("ClassifierGuidance", self.interval, self.sde)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the guided estimate and the memory; see `Remembering.recall`.

        Where no signal is left the state says nothing of the condition, and nothing is moved.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: the conditions, or `Guided`.
            memory: what the call before has returned.

        Raises:
            ValueError: scales or log-probabilities that do not fit the batch.
        """
        x = as_state(x)
        cond, scale = split(cond, self.scale, x)
        scale = scale_at(scale, t, x, self.interval, self.sde)
        given = cond if self.conditional else None
        estimate, memory = evaluate(recall, self.denoise, x, t, given, memory)
        gradient = self.gradient(x, t, cond)
        alpha, sigma = marginal_at(self.sde, t, x)
        signal = alpha > NO_SIGNAL
        per_gradient = jnp.where(signal, sigma**2 / jnp.where(signal, alpha, 1.0), 0.0)
        factor = scale - 1.0 if self.conditional else scale
        return estimate.moved(alpha, sigma, factor * per_gradient * gradient), memory

    def gradient(self, x: Array, t: ArrayLike, cond: Any) -> Array:
        """Return the gradient (batch, ...) of the log-probability of each sample's condition."""

        def total(x):
            value = evaluate(self.log_prob, x, t, cond)
            if jnp.shape(value) != x.shape[:1]:
                raise ValueError(
                    "log_prob(x, t, cond) returns one log-probability a sample, of shape "
                    f"{x.shape[:1]}, got shape {jnp.shape(value)}; "
                    "pick the entry of each sample's condition"
                )
            return jnp.sum(value)

        gradient = jax.grad(total)(x)
        record_evaluations()
        return gradient
