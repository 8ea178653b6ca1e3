r"""Changing the resolution of images, channels last, by a factor of two.

Plain: mean over 2 x 2 on the way down, nearest neighbour on the way up. With a FIR filter (Zhang 2019, arXiv:1904.11486; Karras et al.
2019, arXiv:1912.04958) images are low-pass filtered by :math:`k k^\top / (\sum k)^2` instead, before every second pixel is kept, or
after zeros are put between the pixels (then times four), so that no pattern aliases. Beyond its border an image is zero.
"""

from collections.abc import Callable, Sequence
from functools import partial

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
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def filtered(
    x: Array, fir: Sequence[float], pad: tuple[int, int], *, up: int = 1, down: int = 1
) -> Array:
    """Put a zero behind every pixel of `x` (up 2), pad, filter with `fir` along both axes at gain up^2, keep every `down`-th pixel.

    Computed axis by axis as a sum of shifted images: as a depthwise convolution it takes XLA's CPU backend up to a hundred times longer.
    """
    taps = [
        np.asarray(tap, x.dtype) for tap in np.array(fir)[::-1] / np.sum(fir) * up
    ]  # reversed: a convolution, where XLA correlates
    for axis in (1, 2):
        x = summable(
            _between_pixels(x, taps, pad, axis) if up == 2 else _along(x, taps, pad, down, axis)
        )
    return x


def _along(x: Array, taps: list, pad: tuple[int, int], step: int, axis: int) -> Array:
    """Correlate with `taps` along an axis, padded with zeros or, where `pad` is negative, cut; keep every `step`-th result."""
    x = jax.lax.pad(
        x, np.zeros((), x.dtype), [(*pad, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)]
    )
    reach = (x.shape[axis] - len(taps)) // step * step + 1
    shifted = [
        tap * jax.lax.slice_in_dim(x, k, k + reach, step, axis) for k, tap in enumerate(taps)
    ]
    return sum(shifted[1:], shifted[0])


def _between_pixels(x: Array, taps: list, pad: tuple[int, int], axis: int) -> Array:
    """The same where a zero stands behind every pixel: even and odd results see every second tap each, as the others meet the zeros."""
    kinds = []
    for parity in range(2):
        first = (pad[0] - parity) % 2
        before = (pad[0] - parity - first) // 2
        seen = taps[first::2]
        kinds.append(_along(x, seen, (before, len(seen) - 1 - before), 1, axis))
    return jnp.stack(kinds, axis + 1).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


def resampler(direction: str, fir: Sequence[float] = ()) -> Callable[[Array], Array]:
    """Return the function that takes images "down" or "up" by two; "none" leaves them. No `fir`: plain."""
    excess = len(fir) - 2
    filters = {
        "down": lambda x: filtered(x, fir, ((excess + 1) // 2, excess // 2), down=2),
        "up": lambda x: filtered(x, fir, ((excess + 1) // 2 + 1, excess // 2), up=2),
    }
    plain = {"none": lambda x: x, "down": downsample, "up": upsample}
    return (plain if not fir or direction == "none" else filters)[direction]


def convolved(
    conv: nnx.Conv, x: Array, direction: str = "none", fir: Sequence[float] = ()
) -> Array:
    """Return conv(resampler(direction, fir)(x)) for a convolution that keeps the resolution, without computing anything twice."""
    if direction != "up" or fir:
        return summable(conv(resampler(direction, fir)(x)))
    if conv.kernel_size == (1, 1):
        return summable(upsample(conv(x)))
    dtype = conv.dtype or jnp.result_type(x, conv.kernel[...])
    y = conv_of_upsampled(x.astype(dtype), conv.kernel[...])
    return summable(y if conv.bias is None else y + conv.bias[...].astype(dtype)[None, None, None])


def conv_of_upsampled(x: Array, kernel: Array) -> Array:
    """Return the convolution of upsample(x) with a 3 x 3 kernel, computed at the lower resolution with 4/9 of the operations.

    Along an axis three taps fall on two source pixels: those of an even pixel once on its source's left neighbour and twice on the source,
    those of an odd one twice on the source and once on its right neighbour. So each of four kinds of pixels has a 2 x 2 kernel of sums.
    """
    b, h, w, _ = x.shape
    kinds = [
        jax.lax.conv_general_dilated(
            x,
            two_taps(two_taps(kernel, p, 0), q, 1).astype(x.dtype),
            (1, 1),
            [(1 - p, p), (1 - q, q)],
            dimension_numbers=DIMENSIONS,
        )
        for p in range(2)
        for q in range(2)
    ]
    return (
        jnp.stack(kinds, 3).reshape(b, h, w, 2, 2, -1).swapaxes(2, 3).reshape(b, 2 * h, 2 * w, -1)
    )


def two_taps(kernel: Array, parity: int, axis: int) -> Array:
    """Return the two taps along an axis that three become for even (0) or odd (1) pixels of an upsampled image."""
    first, middle, last = jnp.split(kernel, 3, axis)
    return jnp.concatenate([first + middle, last] if parity else [first, middle + last], axis)


class Resample(nnx.Module):
    """Take images "down" or "up" by two, learned with a 3 x 3 convolution if `features_out` is given.

    Plainly down, the convolution has stride two and, as TensorFlow's, pads behind the image only, or with `symmetric` on both sides;
    up, it follows the nearest neighbours. With `fir` the filter comes first on the way down, and last on the way up.
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
        dtype=None,
        rngs: nnx.Rngs,
    ):
        self.direction, self.fir = direction, tuple(fir)
        plain = (
            {"strides": 2, "padding": [(int(symmetric), 1)] * 2}
            if direction == "down"
            else {"padding": [(1, 1)] * 2}
        )
        geometry = (
            plain if not fir else {"strides": 2, "padding": "VALID"} if direction == "down" else {}
        )
        conv = partial(nnx.Conv, **geometry, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.conv = conv(features_in, features_out, (3, 3)) if features_out else None

    def __call__(self, x: Array, emb: Array | None = None, rngs: nnx.Rngs | None = None) -> Array:
        if self.conv is None:
            return resampler(self.direction, self.fir)(x)
        if not self.fir:
            return self.conv(x) if self.direction == "down" else convolved(self.conv, x, "up")
        if self.direction == "down":
            excess = len(self.fir)  # - 2 of the stride, + 2 of the convolution
            return self.conv(filtered(x, self.fir, ((excess + 1) // 2, excess // 2)))
        excess = len(self.fir) - 4
        dtype = self.conv.dtype or jnp.result_type(x, self.conv.kernel[...])
        x, kernel, bias = (a.astype(dtype) for a in (x, self.conv.kernel[...], self.conv.bias[...]))  # pyright: ignore[reportOptionalSubscript]
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS
        )
        # the bias belongs behind the filter, which sees zeros beyond the border; 4 for the zeros between the pixels
        return (
            4 * filtered(x, self.fir, ((excess + 1) // 2 + 1, excess // 2 + 1))
            + bias[None, None, None]
        )
