"""The images beside the U-Net: each merge against its parts, which have tests of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.layers import Style
from models.pyramids import InputResidual, InputSkip, OutputResidual, OutputSkip
from models.resample import resampler

FIR = (1, 3, 3, 1)
STYLE = Style(fir=FIR)
SMALL, LARGE = (2, 2, 4), (2, 4, 8)


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(merge):
    """Return `merge` with parameters such as training leaves behind."""
    fill = lambda p: jnp.asarray(images(*p.shape, seed=p.size))  # noqa: E731
    nnx.update(merge, jax.tree.map(fill, nnx.state(merge)))
    return merge


def part(merge, h):
    """Return the part of the state in the image: normalised, silu, convolved."""
    normal = np.asarray(merge.norm(h), np.float64)
    return merge.conv(jnp.asarray(normal / (1 + np.exp(-normal)), jnp.float32))


def close(got, *want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("combine", ["sum", "cat"])
def test_the_halved_image_goes_on_as_an_image_and_the_state_sees_it(combine):
    merge = filled(InputSkip(3, 8, STYLE, combine, rngs=nnx.Rngs(0)))
    image = images(*LARGE, 3)
    h = images(*SMALL, 8, seed=1)
    small = np.asarray(resampler("down", FIR)(jnp.asarray(image)))
    projected = small @ np.asarray(merge.conv.kernel)[0, 0] + np.asarray(merge.conv.bias)
    want = h + projected if combine == "sum" else np.concatenate([projected, h], axis=-1)
    close(merge(jnp.asarray(image), jnp.asarray(h)), small, want)
    assert merge.features_out == want.shape[-1]


def test_a_residual_pyramid_on_the_way_down_is_the_state_too():
    merge = filled(InputResidual(3, 8, STYLE, rngs=nnx.Rngs(0)))
    image = jnp.asarray(images(*LARGE, 3))
    h = jnp.asarray(images(*SMALL, 8, seed=1))
    total = (np.asarray(merge.down(image)) + h) / np.sqrt(2)
    close(merge(image, h), total, total)


@pytest.mark.parametrize("first", [True, False])
def test_an_image_grows_by_the_part_of_the_state(first):
    merge = filled(OutputSkip(8, 3, STYLE, first=first, rngs=nnx.Rngs(0)))
    image = jnp.asarray(images(*SMALL, 3))
    h = jnp.asarray(images(*LARGE, 8, seed=1))
    before = 0 if first else resampler("up", FIR)(image)
    close(merge(image, h), part(merge, h) + before, h)


@pytest.mark.parametrize("first", [True, False])
def test_a_residual_pyramid_on_the_way_up_starts_from_the_state_and_is_the_state_then(first):
    merge = filled(OutputResidual(0 if first else 4, 8, STYLE, first=first, rngs=nnx.Rngs(0)))
    pyramid = jnp.asarray(images(*SMALL, 4))
    h = jnp.asarray(images(*LARGE, 8, seed=1))
    if first:
        close(merge(pyramid, h), part(merge, h), h)
    else:
        total = (np.asarray(merge.up(pyramid)) + h) / np.sqrt(2)
        close(merge(pyramid, h), total, total)
