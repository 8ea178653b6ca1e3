r"""Sub-VP SDE (Song et al. 2021, arXiv:2011.13456, eq. 12): VP's mean with a smaller variance.

.. math:: dx = -\tfrac12 \beta_t x\,dt + \sqrt{\beta_t (1 - e^{-2 B_t})}\,dw, \qquad
    B_t = \int_0^t \beta = -2 \log \alpha_t,

so that :math:`\sigma_t = 1 - \alpha_t^2`, without a square root.
"""

import jax.numpy as jnp
from jax import Array

from .base import SDE
from .checks import check_increasing
from .vp import log_alpha, time_of_integral


class SubVP(SDE):
    """Sub-variance preserving process with a linear beta; its prior is N(0, I).

    Attributes:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __check_init__(self):
        check_increasing(beta_min=self.beta_min, beta_max=self.beta_max)

    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return `alpha` and `sigma` at `t`, elementwise."""
        log_mean = log_alpha(t, self.beta_min, self.beta_max)
        # With 1 - exp in the place of expm1 it would be off by 1.2 % at t = 1e-5.
        return jnp.exp(log_mean), -jnp.expm1(2 * log_mean)

    def inverse(self, log_snr: Array) -> Array:
        # sigma / alpha = 1 / alpha - alpha = 2 sinh(-log alpha)
        """Return the time of a log-SNR in closed form, elementwise."""
        integral = 2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * log_snr))
        return time_of_integral(integral, self.beta_min, self.beta_max)

    def prior_std(self) -> float:
        """Return 1."""
        return 1.0
