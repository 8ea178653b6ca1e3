"""Blocks against their definitions, written out in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.layers import Attention, GroupNorm, ResBlock
from models.resample import resampler


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def group_norm_oracle(x, scale, bias, groups):
    x = np.asarray(x, np.float64)
    b, h, w, c = x.shape
    y = np.empty_like(x)
    for i in range(b):
        for g in np.split(np.arange(c), groups):
            values = x[i][..., g]
            y[i][..., g] = (values - values.mean()) / np.sqrt(values.var() + 1e-6)
    return y * scale + bias


@pytest.mark.parametrize("features, groups", [(8, 2), (36, 9), (160, 32)])
def test_group_norm_is_its_definition(features, groups):
    norm = GroupNorm(features)
    scale, bias = images(features, seed=1), images(features, seed=2)
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(bias)
    x = images(3, 4, 6, features) * np.geomspace(1e-3, 10, features, dtype=np.float32)
    np.testing.assert_allclose(norm(jnp.asarray(x)), group_norm_oracle(x, scale, bias, groups), rtol=1e-5, atol=1e-5)


def test_group_norm_survives_a_large_mean():
    """E[x^2] - E[x]^2 would lose the unit variance beside 1000^2 in float32 (by 6 %)."""
    x = 1000 + images(2, 8, 8, 8)
    np.testing.assert_allclose(GroupNorm(8)(jnp.asarray(x)), group_norm_oracle(x, 1.0, 0.0, 2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("features", [3, 42, 144])
def test_group_norm_refuses_channels_that_it_cannot_share(features):
    with pytest.raises(ValueError, match=f"cannot share {features} channels"):
        GroupNorm(features)


def test_attention_is_its_definition():
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Attention(8, rngs=nnx.Rngs(0))))
    p = jax.tree.map(lambda p: images(*p.shape, seed=p.size), nnx.to_pure_dict(params))
    x = images(2, 3, 5, 8)
    got = jax.jit(lambda x: nnx.merge(graphdef, p)(x))(jnp.asarray(x))

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    h = group_norm_oracle(x, p["norm"]["scale"], p["norm"]["bias"], 2).reshape(2, 15, 8)
    q, k, v = np.split(h @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    weight = np.exp(np.einsum("bqc,bkc->bqk", q, k) / np.sqrt(8))
    weight /= weight.sum(-1, keepdims=True)
    out = (np.einsum("bqk,bkc->bqc", weight, v) @ p["out"]["kernel"] + p["out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(got, (x + out) / np.sqrt(2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", ["none", "down", "up"])
def test_a_new_block_starts_as_its_shortcut(resample):
    """A residual branch that starts at zero makes a deep network trainable; the sum is divided by sqrt 2, and again for the attention."""
    x = jnp.asarray(images(2, 4, 4, 8))

    def start(key):
        block = ResBlock(8, 8, 12, resample=resample, attend=True, rngs=nnx.Rngs(key))
        assert (block.shortcut is None) == (resample == "none")
        shortcut = resampler(resample)(x)
        return block(x, jnp.asarray(images(2, 12)), None), shortcut if block.shortcut is None else block.shortcut(shortcut)

    y, shortcut = jax.jit(start)(jax.random.key(0, impl="rbg"))  # compiles fast
    np.testing.assert_allclose(y, shortcut / 2, rtol=1e-3, atol=1e-3)
