r"""A finite data set :math:`\{p_i\}`: N equal Gaussians without width. With :math:`r_i` the
probability that x came from point i,

.. math:: r = \operatorname{softmax}\Big({-\frac{\|x - \alpha p_i\|^2}{2 \sigma^2}}\Big), \qquad
    E[x_0 \mid x] = \sum_i r_i p_i, \qquad \nabla \log p_t = (\alpha E[x_0 \mid x] - x) / \sigma^2,

.. math:: \Delta \log p_t = \frac{1}{\sigma^2} \Big(
    \frac{\alpha^2}{\sigma^2} \sum_i r_i \| p_i - E[x_0 \mid x] \|^2 - d \Big).

It is what minimises the training loss exactly: a sampler that uses it reproduces training data and
nothing else.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from ..arrays import expand_time, matmul
from ..base import SDE
from .base import DataDistribution, Marginal, Moments, check_state, finite


class Empirical(DataDistribution):
    """N data points, equally likely.

    It takes memory for (batch, N) numbers, and has neither density nor score where sigma is 0.

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
        """Draw `n` of the points (n, d), with replacement."""
        chosen = jax.random.randint(key, (n,), 0, len(self.points))
        return jnp.asarray(self.points)[chosen]

    def data_moments(self) -> Moments:
        """Return the mean (d,) and the covariance (d, d) of the points."""
        points = jnp.asarray(self.points)
        mean = jnp.mean(points, 0)
        centred = points - mean[None]
        return Moments(mean=mean, cov=matmul(centred.T, centred) / len(points))

    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        """Return everything known of p_t at `x`; see `DataDistribution.marginal`."""
        x = check_state(x, self.points.shape[1])
        points = jnp.asarray(self.points, x.dtype)
        n, d = points.shape
        alpha, sigma = (jnp.reshape(value, (-1, 1)) for value in sde.marginal(expand_time(t, x)))
        distance = _squared_distances(x, alpha, points)
        joint = -0.5 * distance / sigma**2
        r = jax.nn.softmax(joint, axis=1)
        x0 = matmul(r, points)
        log_normaliser = d * jnp.log(jnp.sqrt(2 * jnp.pi) * sigma[:, 0])
        log_prob = jax.nn.logsumexp(joint, axis=1) - np.log(n) - log_normaliser
        from_mean = _squared_distances(x0, jnp.ones_like(alpha), points)
        variance = jnp.sum(r * from_mean, 1, keepdims=True)  # of the posterior
        divergence = ((alpha / sigma) ** 2 * variance - d) / sigma**2
        return Marginal(
            log_prob=log_prob,
            score=(alpha * x0 - x) / sigma**2,
            x0=x0,
            divergence=divergence[:, 0],
        )


def _squared_distances(x: Array, alpha: Array, points: Array) -> Array:
    """Return |x - alpha p|^2 of each state and point, (batch, N).

    They are summed up one dimension after the other, without storing the differences:
    |x|^2 - 2 x.p + |p|^2 would lose all digits at small sigma.

    Args:
        x: states (batch, d).
        alpha: (batch, 1) or (1, 1).
        points: (N, d).
    """

    @jax.checkpoint
    def add(total, column):
        of_x, of_points = column
        return total + (of_x[:, None] - alpha * of_points[None]) ** 2, None

    zero = jnp.zeros((len(x), len(points)), x.dtype)
    return jax.lax.scan(add, zero, (x.T, points.T))[0]
