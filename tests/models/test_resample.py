"""Resampling against its definition, pixel by pixel in float64.

That covers filters, their borders, and the convolutions beside them.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.layers import kernel_init
from models.resample import Resample, convolved, downsample, resampler, upsample

FIR = (1, 3, 3, 1)
ASYMMETRIC = (1, 2, 5, 3)  # shows whether the filter is turned round as a convolution turns it
ODD = (1, 2, 4)


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_downsample_is_the_mean_and_upsample_the_nearest_pixel():
    x = images(2, 4, 6, 3)
    small = np.asarray(downsample(jnp.asarray(x)))
    large = np.asarray(upsample(jnp.asarray(x)))
    assert small.shape == (2, 2, 3, 3)
    assert large.shape == (2, 8, 12, 3)
    for i in range(2):
        for j in range(3):
            square = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_allclose(small[:, i, j], square.mean((1, 2)), rtol=1e-5, atol=1e-6)
    for i in range(8):
        for j in range(12):
            np.testing.assert_array_equal(large[:, i, j], x[:, i // 2, j // 2])


def stretched(x):
    """Return `x` with a zero behind every pixel, along both axes."""
    b, h, w, c = x.shape
    y = np.zeros((b, 2 * h, 2 * w, c))
    y[:, ::2, ::2] = x
    return y


def convolution(x, kernel, before, after):
    """Return the convolution of zero-padded `x` with a kernel (h, w, in, out), a sum over shifts.

    The kernel is turned round.
    """
    x = np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)])
    n = len(kernel)
    h, w = x.shape[1] - n + 1, x.shape[2] - n + 1
    turned = kernel[::-1, ::-1]
    shifts = [(i, j) for i in range(n) for j in range(n)]
    return sum(x[:, i : i + h, j : j + w] @ turned[i, j] for i, j in shifts)


def low_pass(fir, channels):
    """Return the filter as the kernel of a convolution that leaves the channels apart."""
    kernel = np.outer(fir, fir) / np.sum(fir) ** 2
    return kernel[:, :, None, None] * np.eye(channels)


@pytest.mark.parametrize("fir", [FIR, ASYMMETRIC, ODD])
def test_a_filter_comes_before_pixels_are_left_out_and_after_zeros_are_put_between(fir):
    x = images(2, 4, 6, 3)
    behind = len(fir) - 3  # the odd pixel of padding comes before
    want = convolution(x.astype(float), low_pass(fir, 3), 1, behind)[:, ::2, ::2]
    np.testing.assert_allclose(resampler("down", fir)(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6)
    want = 4 * convolution(stretched(x), low_pass(fir, 3), 2, behind)
    np.testing.assert_allclose(resampler("up", fir)(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6)


def test_the_filters_keep_a_constant_image_away_from_the_border():
    x = jnp.ones((1, 8, 8, 1))
    for direction in ("down", "up"):
        y = np.asarray(resampler(direction, FIR)(x))
        np.testing.assert_allclose(y[:, 1:-1, 1:-1], 1, rtol=1e-6)


CASES = [
    ("down", (), False),
    ("down", (), True),
    ("down", ASYMMETRIC, False),
    ("up", (), False),
    ("up", ASYMMETRIC, False),
]
CASES += [("down", ODD, False), ("up", ODD, False)]


@pytest.mark.parametrize("direction, fir, symmetric", CASES)
def test_a_learned_step_is_filter_and_convolution_in_the_order_of_stylegan(
    direction, fir, symmetric
):
    step = Resample(
        direction, 3, 5, fir=fir, symmetric=symmetric, kernel_init=kernel_init(), rngs=nnx.Rngs(0)
    )
    kernel = images(3, 3, 3, 5, seed=1)
    bias = images(5, seed=2)
    x = images(2, 4, 6, 3).astype(float)
    step.conv.kernel[...] = jnp.asarray(kernel)
    step.conv.bias[...] = jnp.asarray(bias)
    turned = kernel[::-1, ::-1].astype(float)  # networks correlate
    if direction == "down" and not fir:
        want = convolution(x, turned, int(symmetric), 1)[:, ::2, ::2]
    elif direction == "down":
        filtered = convolution(x, low_pass(fir, 3), 2, len(fir) - 2)
        want = convolution(filtered, turned, 0, 0)[:, ::2, ::2]
    elif not fir:
        want = convolution(np.repeat(np.repeat(x, 2, 1), 2, 2), turned, 1, 1)
    else:
        full = convolution(stretched(x)[:, :-1, :-1], turned, 2, 2)
        want = 4 * convolution(full, low_pass(fir, 5), 1, len(fir) - 3)
    got = step(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "direction, fir", [("none", ()), ("down", ()), ("up", ()), ("down", FIR), ("up", FIR)]
)
def test_a_convolution_behind_a_change_of_resolution_is_the_two_one_after_the_other(
    size, direction, fir
):
    conv = nnx.Conv(3, 5, (size, size), bias_init=nnx.initializers.normal(), rngs=nnx.Rngs(0))
    x = jnp.asarray(images(2, 4, 6, 3))
    got = convolved(conv, x, direction, fir)
    want = conv(resampler(direction, fir)(x))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_convolution_of_an_upsampled_image_computes_in_its_own_type(use_bias):
    conv = nnx.Conv(3, 5, (3, 3), use_bias=use_bias, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.asarray(images(2, 4, 6, 3))
    y = convolved(conv, x, "up")
    want = conv(upsample(x))
    assert y.dtype == want.dtype == jnp.bfloat16
    size = np.abs(want).max()
    np.testing.assert_allclose(y.astype(np.float32), want.astype(np.float32), atol=2e-2 * size)
