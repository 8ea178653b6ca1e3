r"""What a denoiser says about a noisy state: the clean data and the noise expected in it.

With :math:`x = \alpha x_0 + \sigma \epsilon`, knowing any combination
:math:`F = a x_0 + b \epsilon` gives both,

.. math:: \Delta = b \alpha - a \sigma, \qquad x_0 = (b x - \sigma F) / \Delta, \qquad
    \epsilon = (\alpha F - a x) / \Delta,

and the score is :math:`-\epsilon / \sigma`. Where :math:`\Delta = 0`, as for a network that
predicts noise where no signal is left, or clean data where no noise is there, F contains nothing
that x does not. Then the smallest estimate that adds up to x is taken,

.. math:: x_0 = \frac{\alpha x}{\alpha^2 + \sigma^2}, \qquad
    \epsilon = \frac{\sigma x}{\alpha^2 + \sigma^2},

that is :math:`x_0 = 0` (the middle of centred data) and :math:`\epsilon = x / \sigma` without
signal, :math:`x_0 = x / \alpha` and :math:`\epsilon = 0` without noise: what a perfect network's
estimates tend to.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

Number = Array | float


class Estimate(NamedTuple):
    """Expected clean data and expected noise in x = alpha x0 + sigma noise, both shaped like x."""

    x0: Array
    noise: Array

    @classmethod
    def solve(
        cls, x: Array, alpha: Number, sigma: Number, a: Number, b: Number, value: Array
    ) -> "Estimate":
        """Return the estimate in which a x0 + b noise = value.

        Args:
            x: the state (batch, ...).
            alpha: of the state; it broadcasts against it, and so do the other numbers.
            sigma: of the state.
            a: of the combination.
            b: of the combination.
            value: the combination (batch, ...), such as a network's output.
        """
        det = b * alpha - a * sigma
        rounding = jnp.finfo(x.dtype).eps * jnp.hypot(a, b) * jnp.hypot(alpha, sigma)
        singular = jnp.abs(det) <= rounding
        divisor = jnp.where(singular, 1.0, det)
        power = alpha**2 + sigma**2
        return cls(
            x0=jnp.where(singular, alpha * x / power, (b * x - sigma * value) / divisor),
            noise=jnp.where(singular, sigma * x / power, (alpha * value - a * x) / divisor),
        )

    @classmethod
    def from_x0(cls, x: Array, alpha: Number, sigma: Number, x0: Array) -> "Estimate":
        """Return the estimate at `x` whose clean data is `x0`, each (batch, ...).

        It needs some noise, sigma > 0.
        """
        return cls(x0=x0, noise=(x - alpha * x0) / sigma)

    @classmethod
    def from_noise(cls, x: Array, alpha: Number, sigma: Number, noise: Array) -> "Estimate":
        """Return the estimate at `x` whose noise is `noise`, each (batch, ...).

        It needs some signal, alpha > 0.
        """
        return cls(x0=(x - sigma * noise) / alpha, noise=noise)

    def moved(self, alpha: Number, sigma: Number, change: Array) -> "Estimate":
        """Return the estimate whose clean data are changed by `change` (batch, ...).

        Its noise changes with them, so that the two still add up to the state. Where sigma is 0 the
        state is the clean data, and nothing changes.
        """
        noisy = sigma > 0
        per_noise = jnp.where(noisy, alpha / jnp.where(noisy, sigma, 1.0), 0.0)
        return Estimate(
            x0=(self.x0 + jnp.where(noisy, change, 0.0)).astype(self.x0.dtype),
            noise=(self.noise - per_noise * change).astype(self.noise.dtype),
        )
