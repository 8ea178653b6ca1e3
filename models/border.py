"""A border of zeros around images.

A network that halves images more often than their size allows works on them with a border, and cuts
it off again. It stays a function of the image alone: nothing outside of the network knows of it.
"""

import jax.numpy as jnp
from jax import Array


def bordered_shape(shape: tuple[int, ...], pad: int) -> tuple[int, ...]:
    """Return the shape (height, width, channels) of an image with a border of `pad` pixels."""
    return (*(side + 2 * pad for side in shape[:2]), *shape[2:])


def bordered(x: Array, pad: int) -> Array:
    """Return images (batch, height, width, channels) with `pad` pixels of zeros on each side."""
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def without_border(x: Array, pad: int) -> Array:
    """Return images (batch, height, width, channels) without `pad` pixels on each side."""
    return x[:, pad:-pad, pad:-pad] if pad else x
