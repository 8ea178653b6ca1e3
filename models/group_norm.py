r"""Group normalisation (Wu and He 2018, arXiv:1803.08494) and its derivative in closed form.

With :math:`\langle\cdot\rangle` the mean over a group (pixels and channels of a sample) and :math:`\hat x = (x - \langle x \rangle) / s`,

.. math:: y = \gamma \hat x + \beta, \qquad s^2 = \langle (x - \langle x \rangle)^2 \rangle + \epsilon, \qquad
    dy = \tfrac{\gamma}{s} \big( dx - \langle dx \rangle - \hat x \langle \hat x\,dx \rangle \big) + \hat x\,d\gamma + d\beta ,

so that the gradient needs two sums over the pixels, where tracing the definition backwards needs three, each of a long expression.
What is summed is centred: there is no cancellation between large squares.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .sums import summable


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def group_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    """Normalise images x (batch, height, width, channels); scale and bias are (1, 1, 1, channels)."""
    return normalised(x, groups, eps)[0] * scale + bias


@group_norm.defjvp
def _derivative(groups: int, eps: float, primals, tangents) -> tuple[Array, Array]:
    (x, scale, bias), (dx, dscale, dbias) = primals, tangents
    dx = summable(dx)
    normal, inverse_std = normalised(x, groups, eps)
    slope = scale * inverse_std
    shift, stretch = (group_mean(a, groups) for a in (dx, summable(normal * dx)))
    dy = (
        slope * dx + spread(dbias - slope * shift, x) + normal * spread(dscale - slope * stretch, x)
    )
    return normal * scale + bias, dy


def normalised(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """Return x at mean 0 and variance 1 in each group, and the inverse of its standard deviation, (batch, 1, 1, channels)."""
    centred = x - group_mean(x, groups)
    inverse_std = jax.lax.rsqrt(group_mean(centred**2 + eps, groups))
    return centred * inverse_std, inverse_std


def group_mean(x: Array, groups: int) -> Array:
    """Return the mean over pixels and the channels of a group, (batch, 1, 1, channels).

    The channels are averaged by matrix products: XLA would make one reduction of two, and a slow one.
    """
    size = x.shape[-1] // groups
    member = np.kron(np.eye(groups), np.ones((size, 1))).astype(x.dtype)
    of_group = jnp.matmul(x.mean((1, 2)), member / size, precision="highest")
    return jnp.matmul(of_group, member.T, precision="highest")[:, None, None]


def spread(row: Array, x: Array) -> Array:
    """Give every pixel the same row (batch or 1, 1, 1, channels); the gradient is a sum over pixels."""
    return summable(jnp.broadcast_to(row, x.shape))
