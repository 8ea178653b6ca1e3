r"""Cosine schedule (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17), variance preserving.

.. math::
    \alpha_t = \frac{\cos \varphi_t}{\cos \varphi_0}, \qquad \sigma_t^2 = 1 - \alpha_t^2, \qquad
    \varphi_t = \frac\pi2 \frac{t + s}{1 + s} = \varphi_0 + a t .

With s = 0 it is the quarter circle of Salimans and Ho (2022, arXiv:2202.00512). At t = 1 no signal
is left: the log-SNR, f and g are infinite there. As :math:`\varphi_0 + a = \pi/2`, cosines of
:math:`\varphi_t` are sines of :math:`a (1 - t)`, which vanish exactly.
"""

import jax.numpy as jnp
from jax import Array

from .arrays import at_least_float32
from .base import SDE
from .checks import check_numbers


class Cosine(SDE):
    """Variance preserving process whose angle arctan(sigma / alpha) grows about evenly.

    Its prior is N(0, I).

    Attributes:
        s: the offset of the schedule, from 0 to below 1.
    """

    s: float = 0.008

    def __check_init__(self):
        check_numbers("0 <= s < 1", lambda s: 0 <= s < 1, self.s)

    def _angles(self) -> tuple[Array, Array]:
        """Return the angle a of the whole schedule and the angle phi_0 at its start, each ()."""
        a = 0.5 * jnp.pi / (1 + jnp.asarray(self.s))
        return a, self.s * a

    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return `alpha` and `sigma` of eq. 17 at `t`, elementwise."""
        a, start = self._angles()
        # cos^2 start - cos^2 angle, without cancellation
        variance = jnp.sin(a * t) * jnp.sin(a * t + 2 * start)
        return jnp.sin(a * (1 - t)) / jnp.sin(a), jnp.sqrt(variance) / jnp.sin(a)

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return `f` and `g` at `t`, elementwise; see `SDE.coefficients`."""
        t = at_least_float32(t)
        a, _ = self._angles()
        f = -a / jnp.tan(a * (1 - t))  # the general form is 0 / 0 at t = 0
        return f, jnp.sqrt(-2 * f)

    def inverse(self, log_snr: Array) -> Array:
        """Return the time of a log-SNR in closed form, elementwise."""
        a, start = self._angles()
        opposite = jnp.hypot(jnp.sin(start), jnp.exp(-0.5 * log_snr))
        return (jnp.arctan2(opposite, jnp.cos(start)) - start) / a

    def discrete_schedule(self, n: int) -> tuple[Array, Array]:
        """Return the schedule of improved DDPM (arXiv:2102.09672, section 3.2), (n,) each.

        Its betas stop at 0.999.
        """
        alpha, _ = self.marginal(jnp.arange(n + 1) / n)
        log_one_minus_beta = jnp.maximum(2 * jnp.diff(jnp.log(alpha)), jnp.log(1 - 0.999))
        log_mean = 0.5 * jnp.cumsum(log_one_minus_beta)
        return log_mean, jnp.sqrt(-jnp.expm1(2 * log_mean))

    def prior_std(self) -> float:
        """Return 1."""
        return 1.0
