r"""What a sampler is told about a noisy state: the clean data and the noise expected in it.

With :math:`x = \alpha x_0 + \sigma \epsilon`, knowing any combination :math:`F = a x_0 + b \epsilon` gives both,

.. math:: \Delta = b \alpha - a \sigma, \qquad x_0 = (b x - \sigma F) / \Delta, \qquad \epsilon = (\alpha F - a x) / \Delta,

and the score is :math:`-\epsilon / \sigma`.
"""

from typing import NamedTuple

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
        """Return the estimate in which a x0 + b noise = value."""
        det = b * alpha - a * sigma
        return cls((b * x - sigma * value) / det, (alpha * value - a * x) / det)

    @classmethod
    def from_x0(cls, x: Array, alpha: Number, sigma: Number, x0: Array) -> "Estimate":
        """Return the estimate whose clean data is `x0`."""
        return cls(x0, (x - alpha * x0) / sigma)

    @classmethod
    def from_noise(cls, x: Array, alpha: Number, sigma: Number, noise: Array) -> "Estimate":
        """Return the estimate whose noise is `noise`."""
        return cls((x - sigma * noise) / alpha, noise)
