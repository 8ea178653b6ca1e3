r"""Variance preserving SDE (Song et al. 2021, arXiv:2011.13456, eq. 11; DDPM in continuous time).

.. math:: dx = -\tfrac12 \beta_t x\,dt + \sqrt{\beta_t}\,dw, \qquad
    \beta_t = \beta_{\min} + t\,(\beta_{\max} - \beta_{\min}),

so that
:math:`\log \alpha_t = -\tfrac14 t^2 (\beta_{\max} - \beta_{\min}) - \tfrac12 t \beta_{\min}` and
:math:`\sigma_t^2 = 1 - \alpha_t^2`.
"""

import jax.numpy as jnp
from jax import Array

from .arrays import at_least_float32
from .base import SDE
from .checks import check_increasing


def log_alpha(t: Array, beta_min: float, beta_max: float) -> Array:
    """Return the log of the mean coefficient of a linear beta at `t`, elementwise.

    It is minus half the integral of beta.
    """
    return -0.25 * t**2 * (beta_max - beta_min) - 0.5 * t * beta_min


def time_of_integral(integral: Array, beta_min: float, beta_max: float) -> Array:
    """Return the time by which the integral of beta has reached a value, at most 1."""
    integral = jnp.minimum(integral, 0.5 * (beta_min + beta_max))
    return 2 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * integral))


class VP(SDE):
    """Variance preserving process with a linear beta; its prior is N(0, I).

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
        # With 1 - exp in the place of expm1 it would be off by 0.6 % at t = 1e-5.
        return jnp.exp(log_mean), jnp.sqrt(-jnp.expm1(2 * log_mean))

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return `f` and `g` at `t`, elementwise; see `SDE.coefficients`."""
        t = at_least_float32(t)
        # The general form is 0 / 0 at t = 0.
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        return -0.5 * beta, jnp.sqrt(beta)

    def inverse(self, log_snr: Array) -> Array:
        """Return the time of a log-SNR in closed form, elementwise."""
        minus_two_log_alpha = jnp.logaddexp(0.0, -log_snr)
        return time_of_integral(minus_two_log_alpha, self.beta_min, self.beta_max)

    def discrete_schedule(self, n: int) -> tuple[Array, Array]:
        """Return the schedule of DDPM, (n,) each (arXiv:2006.11239; arXiv:2011.13456, appendix B).

        It is the product of 1 - beta_i with n equally spaced betas.
        """
        betas = jnp.linspace(self.beta_min / n, self.beta_max / n, n)
        log_mean = 0.5 * jnp.cumsum(jnp.log1p(-betas))
        return log_mean, jnp.sqrt(-jnp.expm1(2 * log_mean))

    def prior_std(self) -> float:
        """Return 1."""
        return 1.0
