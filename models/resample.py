r"""Changing the resolution of images, channels last, by a factor of two.

Plain: the mean over 2 x 2 pixels on the way down, the nearest neighbour on the way up. With a FIR
filter k (Zhang 2019, arXiv:1904.11486; Karras et al. 2019, arXiv:1912.04958) images are low-pass
filtered by :math:`k k^\top / (\sum k)^2` instead, so that no pattern aliases: on the way down
before every second pixel is kept, on the way up after zeros are put between the pixels (then times
four). Beyond its border an image is zero. Images are (batch, height, width, channels) everywhere.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .sums import summable

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def downsample(x: Array) -> Array:
    """Halve height and width: mean over 2 x 2."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Array) -> Array:
    """Double height and width: nearest neighbour."""
    b, h, w, c = x.shape
    repeated = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return repeated.reshape(b, 2 * h, 2 * w, c)


def filtered(
    x: Array, fir: Sequence[float], pad: tuple[int, int], *, up: int = 1, down: int = 1
) -> Array:
    """Filter images along both axes.

    It is computed axis by axis as a sum of shifted images. As a depthwise convolution it takes
    XLA's CPU backend up to a hundred times longer.

    Args:
        x: the images.
        fir: the filter along one axis; it is divided by its sum.
        pad: pixels of zeros in front of and behind each axis; negative numbers cut pixels off.
        up: 2 puts a zero behind every pixel first, and multiplies the result by 4.
        down: every `down`-th pixel of the result is kept.
    """
    weights = np.array(fir)[::-1] / np.sum(fir) * up  # reversed: XLA correlates
    taps = [np.asarray(tap, x.dtype) for tap in weights]
    for axis in (1, 2):
        if up == 2:
            x = summable(_between_pixels(x, taps, pad, axis))
        else:
            x = summable(_along(x, taps, pad, down, axis))
    return x


def _along(x: Array, taps: list[Any], pad: tuple[int, int], step: int, axis: int) -> Array:
    """Correlate with `taps` along an axis and keep every `step`-th result.

    The axis is padded with zeros or, where `pad` is negative, cut.
    """
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (*pad, 0)
    x = jax.lax.pad(x, np.zeros((), x.dtype), padding)
    reach = (x.shape[axis] - len(taps)) // step * step + 1
    shifted = [
        tap * jax.lax.slice_in_dim(x, k, k + reach, step, axis) for k, tap in enumerate(taps)
    ]
    return reduce(operator.add, shifted)


def _between_pixels(x: Array, taps: list[Any], pad: tuple[int, int], axis: int) -> Array:
    """Correlate with `taps` along an axis of an image in which a zero stands behind every pixel.

    Even and odd results meet every second tap each, as the other taps meet the zeros.
    """
    results = []
    for parity in range(2):
        first = (pad[0] - parity) % 2
        met = taps[first::2]
        left = (pad[0] - parity - first) // 2
        right = len(met) - 1 - left
        results.append(_along(x, met, (left, right), 1, axis))
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return jnp.stack(results, axis + 1).reshape(*before, -1, *after)


def resampler(direction: str, fir: Sequence[float] = ()) -> Callable[[Array], Array]:
    """Return the function that takes images "down" or "up" by two; "none" leaves them as they are.

    Without a filter `fir` it is plain.
    """
    excess = len(fir) - 2
    left, right = (excess + 1) // 2, excess // 2
    filters = {
        "down": lambda x: filtered(x, fir, (left, right), down=2),
        "up": lambda x: filtered(x, fir, (left + 1, right), up=2),
    }
    plain = {"none": lambda x: x, "down": downsample, "up": upsample}
    return (plain if not fir or direction == "none" else filters)[direction]


def convolved(
    conv: nnx.Conv, x: Array, direction: str = "none", fir: Sequence[float] = ()
) -> Array:
    """Return conv(resampler(direction, fir)(x)) without computing anything twice.

    The convolution has to keep the resolution, and a kernel of 1 x 1 or 3 x 3.
    """
    if direction != "up" or fir:
        return summable(conv(resampler(direction, fir)(x)))
    if conv.kernel_size == (1, 1):
        return summable(upsample(conv(x)))
    dtype = conv.dtype or jnp.result_type(x, conv.kernel[...])
    y = conv_of_upsampled(x.astype(dtype), conv.kernel[...])
    if conv.bias is not None:
        y = y + conv.bias[...].astype(dtype)[None, None, None]
    return summable(y)


def conv_of_upsampled(x: Array, kernel: Array) -> Array:
    """Return the convolution of upsample(x) with a 3 x 3 kernel, with 4/9 of the operations.

    It is computed at the lower resolution. Along an axis three taps fall on two source pixels:
    those of an even pixel once on the left neighbour of its source and twice on the source, those
    of an odd pixel twice on the source and once on its right neighbour. So each of the four kinds
    of pixels has a 2 x 2 kernel of sums.
    """
    b, h, w, _ = x.shape
    kinds = []
    for row_parity in range(2):
        for column_parity in range(2):
            sums = two_taps(two_taps(kernel, row_parity, 0), column_parity, 1)
            padding = [(1 - row_parity, row_parity), (1 - column_parity, column_parity)]
            kinds.append(convolution(x, sums.astype(x.dtype), padding))
    kinds_of_pixels = jnp.stack(kinds, 3).reshape(b, h, w, 2, 2, -1)
    return kinds_of_pixels.swapaxes(2, 3).reshape(b, 2 * h, 2 * w, -1)


def convolution(
    x: Array, kernel: Array, padding: Sequence[tuple[int, int]] | str, **settings: Any
) -> Array:
    """Return the convolution of images with a kernel (height, width, features in, features out).

    `settings` are others of `jax.lax.conv_general_dilated`.
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS, **settings
    )


def two_taps(kernel: Array, parity: int, axis: int) -> Array:
    """Return the two taps along an axis that three become in front of an upsampled image.

    `parity` is 0 for its even pixels and 1 for its odd ones.
    """
    first, middle, last = jnp.split(kernel, 3, axis)
    if parity == 0:
        return jnp.concatenate([first, middle + last], axis)
    return jnp.concatenate([first + middle, last], axis)


class Resample(nnx.Module):
    """Take images "down" or "up" by two.

    With `features_out` it is learned, with a 3 x 3 convolution. Without filter, the convolution on
    the way down has stride two, and the one on the way up follows the nearest neighbours. With a
    filter, the filter comes first on the way down and last on the way up.

    Args:
        direction: "down" or "up".
        features_in: channels of the images.
        features_out: channels of the result; 0: there is no convolution.
        fir: the filter; (): none.
        symmetric: on the way down without filter, pad on both sides of the image, instead of behind
            it only, as TensorFlow does.
        kernel_init: initialiser of the kernel.
        dtype: type of the computation; None: that of parameters and input.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self,
        direction: str,
        features_in: int = 0,
        features_out: int = 0,
        *,
        fir: Sequence[float] = (),
        symmetric: bool = False,
        kernel_init: Callable,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.direction = direction
        self.fir = tuple(fir)
        conv = partial(
            nnx.Conv,
            kernel_size=(3, 3),
            **_geometry(direction, bool(fir), symmetric),
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.conv = conv(features_in, features_out) if features_out else None

    def __call__(self, x: Array, emb: Array | None = None, rngs: nnx.Rngs | None = None) -> Array:
        """Return the images at the other resolution; `emb` and `rngs` are not used."""
        if self.conv is None:
            return resampler(self.direction, self.fir)(x)
        if self.direction == "down":
            if self.fir:
                excess = len(self.fir)  # - 2 of the stride, + 2 of the convolution
                x = filtered(x, self.fir, ((excess + 1) // 2, excess // 2))
            return self.conv(x)
        if not self.fir:
            return convolved(self.conv, x, "up")
        return self._filtered_up(self.conv, x)

    def _filtered_up(self, conv: nnx.Conv, x: Array) -> Array:
        """Put zeros between the pixels, convolve, and filter."""
        assert conv.bias is not None  # which `nnx.Conv` has by default
        dtype = conv.dtype or jnp.result_type(x, conv.kernel[...])
        x = x.astype(dtype)
        kernel = conv.kernel[...].astype(dtype)
        bias = conv.bias[...].astype(dtype)
        x = convolution(x, kernel, [(2, 2)] * 2, lhs_dilation=(2, 2))
        excess = len(self.fir) - 4
        pad = ((excess + 1) // 2 + 1, excess // 2 + 1)
        x = 4 * filtered(x, self.fir, pad)  # 4 for the zeros between the pixels
        # the bias belongs behind the filter, which sees zeros beyond the border
        return x + bias[None, None, None]


def _geometry(direction: str, with_filter: bool, symmetric: bool) -> dict[str, Any]:
    """Return stride and padding of the convolution of a `Resample`."""
    if direction == "up":
        return {} if with_filter else {"padding": [(1, 1)] * 2}
    if with_filter:
        return {"strides": 2, "padding": "VALID"}
    return {"strides": 2, "padding": [(int(symmetric), 1)] * 2}
