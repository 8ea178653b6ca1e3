r"""Variance exploding SDE (Song et al. 2021, arXiv:2011.13456, eq. 9 and appendix C; SMLD in
continuous time).

.. math:: dx = \sigma_t \sqrt{2 \log(\sigma_{\max}/\sigma_{\min})}\,dw, \qquad
    \sigma_t = \sigma_{\min} (\sigma_{\max}/\sigma_{\min})^t .

The marginal has standard deviation :math:`\sigma_t`, also at t = 0, where it is
:math:`\sigma_{\min}` and not 0.
"""

import jax.numpy as jnp
from jax import Array

from .base import SDE
from .checks import check_increasing


class VE(SDE):
    """Variance exploding process with a geometric sigma; its prior is N(0, sigma_max^2).

    The published values are for data in [0, 1]; on data in [-1, 1] the same process has both sigmas
    doubled.

    Attributes:
        sigma_min: sigma at t = 0.
        sigma_max: sigma at t = 1.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __check_init__(self):
        check_increasing(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return 1 and `sigma` at `t`, elementwise."""
        low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
        sigma = jnp.exp(low + t * (high - low))
        return jnp.ones_like(sigma), sigma

    def inverse(self, log_snr: Array) -> Array:
        """Return the time of a log-SNR in closed form, elementwise."""
        low, high = jnp.log(self.sigma_min), jnp.log(self.sigma_max)
        return (-0.5 * log_snr - low) / (high - low)

    def discrete_schedule(self, n: int) -> tuple[Array, Array]:
        """Return the schedule of SMLD, (n,) each.

        The n sigmas form a geometric progression from sigma_min to sigma_max, both included.
        """
        log_sigma = jnp.linspace(jnp.log(self.sigma_min), jnp.log(self.sigma_max), n)
        return jnp.zeros(n), jnp.exp(log_sigma)
