r"""Group normalisation (Wu and He 2018, arXiv:1803.08494) and its derivative in closed form.

Let :math:`\langle\cdot\rangle` be the mean over a group, that is over the pixels and the channels
of a group of one sample, and :math:`\hat x = (x - \langle x \rangle) / s`. Then

.. math::
    y = \gamma \hat x + \beta, \qquad s^2 = \langle (x - \langle x \rangle)^2 \rangle + \epsilon,

.. math::
    dy = \tfrac{\gamma}{s} \big( dx - \langle dx \rangle - \hat x \langle \hat x\,dx \rangle \big)
    + \hat x\,d\gamma + d\beta .

The gradient needs two sums over the pixels, where tracing the definition backwards needs three,
each of a long expression. The summands are centred, so that no large squares cancel.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .sums import summable


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def group_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    """Normalise each sample over its pixels and groups of channels, then scale and shift.

    Args:
        x: images (batch, height, width, channels).
        scale: gamma, (1, 1, 1, channels).
        bias: beta, (1, 1, 1, channels).
        groups: the number of groups; it divides the number of channels.
        eps: what is added to every variance.
    """
    return normalised(x, groups, eps)[0] * scale + bias


@group_norm.defjvp
def _derivative(groups: int, eps: float, primals, tangents) -> tuple[Array, Array]:
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    dx = summable(dx)
    normal, inverse_std = normalised(x, groups, eps)
    slope = scale * inverse_std
    mean_dx = group_mean(dx, groups)
    mean_normal_dx = group_mean(summable(normal * dx), groups)
    constant = over_pixels(dbias - slope * mean_dx, x)
    factor = over_pixels(dscale - slope * mean_normal_dx, x)
    dy = slope * dx + constant + normal * factor
    return normal * scale + bias, dy


def normalised(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """Return x at mean 0 and variance 1 in each group, and the inverse of its standard deviation.

    The inverse has the shape (batch, 1, 1, channels).
    """
    centred = x - group_mean(x, groups)
    inverse_std = jax.lax.rsqrt(group_mean(centred**2 + eps, groups))
    return centred * inverse_std, inverse_std


def group_mean(x: Array, groups: int) -> Array:
    """Return the mean over the pixels and the channels of a group, (batch, 1, 1, channels).

    The channels are averaged by two matrix products: XLA would make one slow reduction of a mean
    over pixels and one over channels.
    """
    size = x.shape[-1] // groups
    member = np.kron(np.eye(groups), np.ones((size, 1))).astype(x.dtype)
    of_group = jnp.matmul(x.mean((1, 2)), member / size, precision="highest")
    return jnp.matmul(of_group, member.T, precision="highest")[:, None, None]


def over_pixels(values: Array, x: Array) -> Array:
    """Give the same values (batch or 1, 1, 1, channels) to every pixel of x.

    The gradient is a sum over pixels.
    """
    return summable(jnp.broadcast_to(values, x.shape))
