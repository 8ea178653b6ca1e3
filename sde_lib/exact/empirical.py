r"""A finite data set :math:`\{p_i\}`: N equal Gaussians without width. With :math:`r_i` the probability that x came from point i,

.. math:: r = \operatorname{softmax}\Big({-\frac{\|x - \alpha p_i\|^2}{2 \sigma^2}}\Big), \qquad
    E[x_0 \mid x] = \sum_i r_i p_i, \qquad \nabla \log p_t = (\alpha E[x_0 \mid x] - x) / \sigma^2,

.. math:: \Delta \log p_t = \frac{1}{\sigma^2} \Big( \frac{\alpha^2}{\sigma^2} \sum_i r_i \| p_i - E[x_0 \mid x] \|^2 - d \Big).

It is what minimises the training loss exactly: a sampler that uses it reproduces training data and nothing else.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from ..arrays import expand_time
from ..base import SDE
from .base import DataDistribution, Marginal, Moments, check_state, finite, matmul


class Empirical(DataDistribution):
    """N data points, equally likely. Takes memory for (batch, N) numbers; without density or score where sigma is 0.

    Attributes:
        points: (N, d).
    """

    points: Float[np.ndarray, "n d"]

    def __init__(self, points: npt.ArrayLike):
        """Keep the data set `points` (N, d).

        Raises:
            ValueError: it has another number of axes, is empty or not finite.
        """
        self.points = finite("points", points, 2)

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        return jnp.asarray(self.points)[jax.random.randint(key, (n,), 0, len(self.points))]

    def data_moments(self) -> Moments:
        points = jnp.asarray(self.points)
        mean = jnp.mean(points, 0)
        centred = points - mean[None]
        return Moments(mean, matmul(centred.T, centred) / len(points))

    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        x = check_state(x, self.points.shape[1])
        points = jnp.asarray(self.points, x.dtype)
        n, d = points.shape
        alpha, sigma = (jnp.reshape(value, (-1, 1)) for value in sde.marginal(expand_time(t, x)))
        distance = _squared_distances(x, alpha, points)
        joint = -0.5 * distance / sigma**2
        r = jax.nn.softmax(joint, axis=1)
        x0 = matmul(r, points)
        log_prob = (
            jax.nn.logsumexp(joint, axis=1)
            - np.log(n)
            - d * jnp.log(jnp.sqrt(2 * jnp.pi) * sigma[:, 0])
        )
        spread = jnp.sum(r * _squared_distances(x0, jnp.ones_like(alpha), points), 1, keepdims=True)
        divergence = ((alpha / sigma) ** 2 * spread - d) / sigma**2
        return Marginal(log_prob, (alpha * x0 - x) / sigma**2, x0, divergence[:, 0])


def _squared_distances(x: Array, alpha: Array, points: Array) -> Array:
    """Return |x - alpha p|^2 of each x (batch, d) and point p (N, d), as (batch, N), without storing the differences.

    Summed up one dimension after the other: |x|^2 - 2 x.p + |p|^2 would lose all digits at small sigma.
    """

    @jax.checkpoint
    def add(total, column):
        of_x, of_points = column
        return total + (of_x[:, None] - alpha * of_points[None]) ** 2, None

    zero = jnp.zeros((len(x), len(points)), x.dtype)
    return jax.lax.scan(add, zero, (x.T, points.T))[0]
