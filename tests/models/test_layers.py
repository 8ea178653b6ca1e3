"""Blocks against their definitions, written out in float64 NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.layers import ACTIVATIONS, Attention, GroupNorm, ResBlock, Style
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
    scale = images(features, seed=1)
    bias = images(features, seed=2)
    norm.scale[...] = jnp.asarray(scale)
    norm.bias[...] = jnp.asarray(bias)
    x = images(3, 4, 6, features) * np.geomspace(1e-3, 10, features, dtype=np.float32)
    want = group_norm_oracle(x, scale, bias, groups)
    np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=1e-5, atol=1e-5)


def test_group_norm_survives_a_large_mean():
    """E[x^2] - E[x]^2 would lose the unit variance beside 1000^2 in float32 (by 6 %)."""
    x = 1000 + images(2, 8, 8, 8)
    want = group_norm_oracle(x, 1.0, 0.0, 2)
    np.testing.assert_allclose(GroupNorm(8)(jnp.asarray(x)), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("features", [3, 42, 144])
def test_group_norm_refuses_channels_that_it_cannot_share(features):
    with pytest.raises(ValueError, match=f"cannot share {features} channels"):
        GroupNorm(features)


@pytest.mark.parametrize(
    "style, heads, groups",
    [(Style(), 1, 2), (Style(groups=2, attention_groups=4, head_features=4), 2, 4)],
)
def test_attention_is_its_definition(style, heads, groups):
    abstract = nnx.eval_shape(lambda: Attention(8, style, rngs=models.rngs_of(0)))
    graphdef, params = nnx.split(abstract)
    p = jax.tree.map(lambda p: images(*p.shape, seed=p.size), nnx.to_pure_dict(params))
    x = images(2, 3, 5, 8)
    got = jax.jit(lambda x: nnx.merge(graphdef, p)(x))(jnp.asarray(x))

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    h = group_norm_oracle(x, p["norm"]["scale"], p["norm"]["bias"], groups).reshape(2, 15, 8)
    q, k, v = np.split(h @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    mixed = []
    for head in np.split(np.arange(8), heads):
        logits = np.einsum("bqc,bkc->bqk", q[..., head], k[..., head]) / np.sqrt(8 / heads)
        weight = np.exp(logits)
        mixed.append(weight / weight.sum(-1, keepdims=True) @ v[..., head])
    out = np.concatenate(mixed, axis=-1) @ p["out"]["kernel"] + p["out"]["bias"]
    want = (x + out.reshape(x.shape)) / np.sqrt(2)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resample", ["none", "down", "up"])
def test_a_new_block_starts_as_its_shortcut(resample):
    """A residual branch that starts at zero makes a deep network trainable.

    The sum is divided by sqrt 2, and again for the attention.
    """
    x = jnp.asarray(images(2, 4, 4, 8))
    emb = jnp.asarray(images(2, 12))

    def start(key):
        block = ResBlock(8, 8, 12, resample=resample, attend=True, rngs=nnx.Rngs(key))
        assert (block.shortcut is None) == (resample == "none")
        shortcut = resampler(resample)(x)
        if block.shortcut is not None:
            shortcut = block.shortcut(shortcut)
        return block(x, emb, None), shortcut

    y, shortcut = jax.jit(start)(jax.random.key(0, impl="rbg"))  # compiles fast
    np.testing.assert_allclose(y, shortcut / 2, rtol=1e-3, atol=1e-3)


def convolution(x, p):
    """Return the 1 x 1 or 3 x 3 convolution of `x` that keeps the resolution."""
    n = len(p["kernel"])
    h, w = x.shape[1:3]
    x = np.pad(x, [(0, 0), (n // 2, n // 2), (n // 2, n // 2), (0, 0)])
    shifts = [(i, j) for i in range(n) for j in range(n)]
    return sum(x[:, i : i + h, j : j + w] @ p["kernel"][i, j] for i, j in shifts) + p["bias"]


@pytest.mark.parametrize(
    "style, features, groups, settings",
    [
        (Style(), 12, (2, 3), {}),
        (Style(scale_shift=True, groups=6, rescale=1.0), 12, (4, 6), {"groups_in": 4}),
        # the shortcut is filtered too
        (Style(fir=(1, 3, 3, 1), resampled_shortcut=False), 8, (2, 2), {"resample": "down"}),
    ],
)
def test_a_block_is_its_definition(style, features, groups, settings):
    abstract = nnx.eval_shape(
        lambda: ResBlock(8, features, 6, style, **settings, rngs=models.rngs_of(0))
    )
    graphdef, params = nnx.split(abstract)
    p = jax.tree.map(lambda p: images(*p.shape, seed=p.size) / 2, nnx.to_pure_dict(params))
    x = images(2, 4, 6, 8)
    emb = images(2, 6, seed=1)
    block = jax.jit(lambda x, emb: nnx.merge(graphdef, p)(x, emb, None))
    got = block(jnp.asarray(x), jnp.asarray(emb))

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    silu = lambda a: a / (1 + np.exp(-a))  # noqa: E731

    def norm(name, a, groups):
        return group_norm_oracle(a, p[name]["scale"], p[name]["bias"], groups)

    change = resampler(settings.get("resample", "none"), style.fir)
    resampled = lambda a: np.asarray(change(jnp.asarray(a, jnp.float32)))  # noqa: E731

    h = convolution(resampled(silu(norm("norm0", x, groups[0]))), p["conv0"])
    condition = (emb @ p["cond"]["kernel"] + p["cond"]["bias"])[:, None, None]
    if style.scale_shift:
        scale, shift = np.split(condition, 2, axis=-1)
        h = (1 + scale) * norm("norm1", h, groups[1]) + shift
    else:
        h = norm("norm1", h + condition, groups[1])
    shortcut = resampled(x)
    if "shortcut" in p:
        shortcut = convolution(shortcut, p["shortcut"])
    want = (shortcut + convolution(silu(h), p["conv1"])) / style.rescale
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_what_is_dropped_is_what_the_last_convolution_sees():
    """Where it is the identity, a number is zero or 1 / (1 - rate) times its undropped value."""
    fast = nnx.Rngs(jax.random.key(0, impl="rbg"))  # compiles fast
    block = ResBlock(8, 8, 6, Style(dropout=0.5, rescale=1.0), rngs=fast)
    block.conv1.kernel[...] = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    x = jnp.asarray(images(2, 4, 4, 8))
    emb = jnp.asarray(images(2, 6, seed=1))
    dropped = block(x, emb, nnx.Rngs(dropout=1)) - x
    whole = nnx.view(block, deterministic=True)(x, emb, None) - x
    np.testing.assert_allclose(np.asarray(dropped) * np.asarray(dropped - 2 * whole), 0, atol=1e-5)
    # of 256 numbers; a fair coin leaves these bounds but once in 1e9 times
    assert 0.3 < np.mean(np.isclose(dropped, 0, atol=1e-6)) < 0.7


def test_normalisation_and_sums_are_not_rounded_to_bfloat16():
    x = jnp.asarray(30 + images(2, 8, 8, 8), jnp.bfloat16)
    want = group_norm_oracle(x.astype(np.float32), 1.0, 0.0, 2)
    # a mean rounded to bfloat16 would be off by 0.06
    np.testing.assert_allclose(GroupNorm(8)(x).astype(np.float32), want, atol=2e-2)
    assert Style(dtype=jnp.bfloat16).residual_sum(x, x).dtype == jnp.float32


def test_kernels_start_with_the_published_variance():
    """Uniform, scale / fan_avg (Song et al. 2021).

    Of 9216 numbers the standard deviation is off by 3 % but once in 1e9 times.
    """
    kernel = np.asarray(Style().conv(16, 64, 3, nnx.Rngs(0)).kernel[...])
    qkv = np.asarray(Attention(64, rngs=nnx.Rngs(0)).qkv.kernel[...])
    for weights, variance in [
        (kernel, 1 / (9 * (16 + 64) / 2)),
        *((part, 0.1 / 64) for part in np.split(qkv, 3, axis=1)),
    ]:
        assert weights.std() == pytest.approx(np.sqrt(variance), rel=0.03)
        assert 0.98 < np.abs(weights).max() / np.sqrt(3 * variance) <= 1


ACTIVATIONS_HERE = {  # as PyTorch documents them
    "silu": lambda x: x / (1 + math.exp(-x)),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "relu": lambda x: max(x, 0.0),
    "lrelu": lambda x: max(x, 0.2 * x),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_definition(name):
    x = np.linspace(-6, 6, 49, dtype=np.float32)
    want = [ACTIVATIONS_HERE[name](float(a)) for a in x]
    np.testing.assert_allclose(
        Style(activation=name).act(jnp.asarray(x)), want, rtol=1e-5, atol=1e-6
    )
