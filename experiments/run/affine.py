r"""Images under an affine map of the plane.

A point is (x, y) in pixels from the centre of the image, x to the right and y down. Under
:math:`q = A p + b` the pixel at :math:`q` takes the value of the image at
:math:`p = A^{-1} (q - b)`. Between pixels, values are interpolated by the cubic convolution of Keys
1981 (doi:10.1109/TASSP.1981.1163711) with a = -1/2, which reproduces polynomials of degree two.
Outside, the image is reflected at the centres of its border pixels. So a map that sends
centres of pixels to centres of pixels, such as a translation by whole pixels, a mirroring or a
quarter turn of a square, moves values and changes none. There is no low-pass filter: an image that
is made much smaller is aliased.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

TAPS = np.arange(-1, 3)  # the pixels that a value is interpolated from, around the one below it


def resample(images: Array, linear: Array, shift: Array) -> Array:
    """Return images under affine maps, each image under its own.

    Args:
        images: (batch, height, width, channels).
        linear: A, (batch, 2, 2), not singular.
        shift: b, (batch, 2), in pixels.
    """
    return jax.vmap(_resample)(images, linear, shift)


def _resample(image: Array, linear: Array, shift: Array) -> Array:
    """Return one image (height, width, channels) under an affine map."""
    height, width, _ = image.shape
    x, y = jnp.meshgrid(centred(width), centred(height))
    offset = jnp.stack([x - shift[0], y - shift[1]])  # q - b, (2, height, width)
    source = jnp.einsum("ij,jhw->ihw", inverse(linear), offset, precision="highest")
    columns, column_weights = _taps(source[0] + (width - 1) / 2, width)
    rows, row_weights = _taps(source[1] + (height - 1) / 2, height)
    values = image[rows[..., :, None], columns[..., None, :]]  # (height, width, 4, 4, channels)
    return jnp.einsum(
        "hwrkc,hwr,hwk->hwc", values, row_weights, column_weights, precision="highest"
    ).astype(image.dtype)


def centred(size: int) -> Array:
    """Return the coordinates (size,) of pixels along one axis, from the centre of the image."""
    return jnp.arange(size) - (size - 1) / 2


def inverse(matrix: Array) -> Array:
    """Return the inverse of a matrix (2, 2)."""
    (a, b), (c, d) = matrix
    return jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)


def _taps(place: Array, size: int) -> tuple[Array, Array]:
    """Return the four pixels of an axis that values at places (...) depend on, and their weights.

    Both are (..., 4); places are in pixels from the first one.
    """
    below = jnp.floor(place)
    weights = cubic_weights(place - below)
    pixels = jnp.stack([below.astype(jnp.int32) + tap for tap in TAPS], axis=-1)
    return reflected(pixels, size), weights


def cubic_weights(f: Array) -> Array:
    """Return the weights (..., 4) of the pixels -1, 0, 1 and 2 for values at 0 <= f < 1."""
    square = f**2
    cube = f**3
    return jnp.stack(
        [
            -f / 2 + square - cube / 2,
            1 - 5 * square / 2 + 3 * cube / 2,
            f / 2 + 2 * square - 3 * cube / 2,
            -square / 2 + cube / 2,
        ],
        axis=-1,
    )


def reflected(index: Array, size: int) -> Array:
    """Return the pixels 0..size-1 that indices outside of an image stand for.

    Reflection leaves the border pixels single: -1 stands for 1, and `size` for size - 2.
    """
    period = max(2 * (size - 1), 1)
    index = index % period
    return jnp.minimum(index, period - index) if size > 1 else index
