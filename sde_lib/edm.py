r"""The process of Karras et al. (2022, arXiv:2206.00364): noise that grows linearly, and nothing
else,

.. math:: x_t = x_0 + \sigma_t \epsilon, \qquad \sigma_t = \sigma_{\max} t, \qquad f = 0, \qquad
    g^2 = 2 \sigma_{\max}^2 t,

their time, which is sigma itself, scaled to [0, 1].
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from .arrays import at_least_float32
from .base import SDE
from .checks import check_increasing


class EDM(SDE):
    """Variance exploding process with a linear sigma; its prior is N(0, sigma_max^2).

    The default t_min is the published smallest sigma, 0.002 of 80; with t_min = 0 a sampler may go
    on to data without noise.

    Attributes:
        sigma_max: sigma at t = 1.
    """

    sigma_max: float = 80.0
    t_min: float = eqx.field(default=0.002 / 80, kw_only=True)

    def __check_init__(self):
        check_increasing(sigma_max=self.sigma_max)

    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return 1 and sigma_max t at `t`, elementwise."""
        sigma = self.sigma_max * t
        return jnp.ones_like(sigma), sigma

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return `f` = 0 and `g` at `t`, elementwise; see `SDE.coefficients`."""
        t = at_least_float32(t)
        g = self.sigma_max * jnp.sqrt(2 * t)
        return jnp.zeros_like(g), g

    def inverse(self, log_snr: Array) -> Array:
        """Return the time of a log-SNR in closed form, elementwise."""
        return jnp.exp(-0.5 * log_snr) / self.sigma_max
