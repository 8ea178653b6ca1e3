"""What a level makes of the image beside the U-Net and of the state: each merge beside its parts, which have tests of their own."""

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
    nnx.update(
        merge, jax.tree.map(lambda p: jnp.asarray(images(*p.shape, seed=p.size)), nnx.state(merge))
    )
    return merge


def own(merge, h):
    """Return what the state says: normalised, silu, convolved."""
    normal = np.asarray(merge.norm(h), np.float64)
    return merge.conv(jnp.asarray(normal / (1 + np.exp(-normal)), jnp.float32))


def close(got, *want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("combine", ["sum", "cat"])
def test_the_halved_image_goes_on_as_an_image_and_the_state_sees_it(combine):
    merge = filled(InputSkip(3, 8, STYLE, combine, rngs=nnx.Rngs(0)))
    image, h = images(*LARGE, 3), images(*SMALL, 8, seed=1)
    small = np.asarray(resampler("down", FIR)(jnp.asarray(image)))
    seen = small @ np.asarray(merge.conv.kernel)[0, 0] + np.asarray(merge.conv.bias)
    close(
        merge(jnp.asarray(image), jnp.asarray(h)),
        small,
        h + seen if combine == "sum" else np.concatenate([seen, h], axis=-1),
    )


def test_a_residual_pyramid_on_the_way_down_is_the_state_too():
    merge = filled(InputResidual(3, 8, STYLE, rngs=nnx.Rngs(0)))
    image, h = jnp.asarray(images(*LARGE, 3)), jnp.asarray(images(*SMALL, 8, seed=1))
    total = (np.asarray(merge.down(image)) + h) / np.sqrt(2)
    close(merge(image, h), total, total)


@pytest.mark.parametrize("first", [True, False])
def test_an_image_grows_by_what_the_state_says(first):
    merge = filled(OutputSkip(8, 3, STYLE, first=first, rngs=nnx.Rngs(0)))
    image, h = jnp.asarray(images(*SMALL, 3)), jnp.asarray(images(*LARGE, 8, seed=1))
    close(merge(image, h), own(merge, h) + (0 if first else resampler("up", FIR)(image)), h)


@pytest.mark.parametrize("first", [True, False])
def test_a_residual_pyramid_on_the_way_up_starts_from_the_state_and_is_the_state_then(first):
    merge = filled(OutputResidual(0 if first else 4, 8, STYLE, first=first, rngs=nnx.Rngs(0)))
    pyramid, h = jnp.asarray(images(*SMALL, 4)), jnp.asarray(images(*LARGE, 8, seed=1))
    if first:
        close(merge(pyramid, h), own(merge, h), h)
    else:
        total = (np.asarray(merge.up(pyramid)) + h) / np.sqrt(2)
        close(merge(pyramid, h), total, total)
