r"""Rectified flow, or flow matching along straight lines (Liu et al. 2022, arXiv:2209.03003; Lipman
et al. 2022, arXiv:2210.02747).

.. math:: x_t = (1 - t)\,x_0 + t\,\epsilon, \qquad f = -\frac{1}{1 - t}, \qquad
    g^2 = \frac{2 t}{1 - t} .

At t = 1 no signal is left: the log-SNR, f and g are infinite there, the probability flow is not.
Flow matching is the denoising loss with prediction "velocity" and weighting "prediction" on this
process.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .arrays import at_least_float32
from .base import SDE


class Rectified(SDE):
    """Straight lines from data to N(0, I)."""

    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return 1 - t and t at `t`, elementwise."""
        return 1.0 - t, 1.0 * t

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return `f` and `g` at `t`, elementwise; both are infinite at 1."""
        t = at_least_float32(t)
        return -1 / (1 - t), jnp.sqrt(2 * t / (1 - t))

    def inverse(self, log_snr: Array) -> Array:
        """Return the time of a log-SNR in closed form, elementwise."""
        return jax.nn.sigmoid(-0.5 * log_snr)

    def prior_std(self) -> float:
        """Return 1."""
        return 1.0
