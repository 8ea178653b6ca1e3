"""The transformer is the published one: its size, its patches, and blocks that begin as the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.dit import DiTBlock, patches, pixels, positions


def test_dit_xl_2_has_the_published_number_of_parameters():
    """675,129,632 of the published DiT-XL/2, less its stored positions and its second, learned-variance output (arXiv:2212.09748)."""
    settings = {
        "width": 1152,
        "depth": 28,
        "heads": 16,
        "num_classes": 1000,
        "embedding": "positional_open",
    }
    net = nnx.eval_shape(lambda: models.DiT((32, 32, 4), **settings, rngs=models.rngs_of(0)))
    positions, second = 256 * 1152, (1152 + 1) * 2 * 2 * 4
    assert sum(p.size for p in jax.tree.leaves(nnx.state(net))) == 675_129_632 - positions - second


def test_patches_are_squares_row_by_row_and_come_together_again():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    cut = np.asarray(patches(jnp.asarray(x), 2))
    assert cut.shape == (2, 6, 12)
    np.testing.assert_array_equal(cut[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(pixels(jnp.asarray(cut), (4, 6, 3), 2), x)


def test_every_place_is_told_apart_and_rows_from_columns():
    embedded = np.asarray(positions(5, 7, 16))
    distance = np.abs(place[:, None] - place[None]).max(-1) + np.eye(35)
    assert distance.min() > 0.1
    column, row = place.reshape(5, 7, 2, 8).transpose(2, 0, 1, 3)
    assert np.ptp(column, axis=0).max() == 0 and np.ptp(row, axis=1).max() == 0


def test_a_block_is_its_definition():
    rng = np.random.default_rng(0)
    block = DiTBlock(8, 2, 2.0, 0.0, None, rngs=models.rngs_of(0))
    h, emb = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8), (2, 8)))
    np.testing.assert_array_equal(
        block(jnp.asarray(h), jnp.asarray(emb), None), h
    )  # a new block is the identity
    block.steer.kernel[...] = jnp.asarray(rng.normal(size=(8, 48)), jnp.float32) / 3
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(block)))
    b1, s1, g1, b2, s2, g2 = (
        (emb @ p["steer"]["kernel"])[:, None, 8 * i : 8 * i + 8] for i in range(6)
    )
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)  # noqa: E731
    q, k, v = (
        a.reshape(2, 3, 2, 4) for a in np.split(dense("qkv", (1 + s1) * norm(h) + b1), 3, axis=-1)
    )
    weight = np.exp(np.einsum("bqhc,bkhc->bhqk", q, k) / 2)
    mixed = np.einsum("bhqk,bkhc->bqhc", weight / weight.sum(-1, keepdims=True), v).reshape(2, 3, 8)
    want = h + g1 * dense("out", mixed)
    inner = dense("dense0", (1 + s2) * norm(want) + b2)
    gelu = inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    want = want + g2 * dense("dense1", gelu)
    np.testing.assert_allclose(
        block(jnp.asarray(h), jnp.asarray(emb), None), want, rtol=1e-4, atol=1e-4
    )


def test_what_is_around_the_blocks_is_its_definition():
    """Without blocks: patches of an image wider than high, their positions, and a last normalisation that is steered."""
    net = models.DiT((4, 8, 3), width=8, depth=0, heads=2, rngs=models.rngs_of(0))
    rng = np.random.default_rng(0)
    nnx.update(
        net,
        jax.tree.map(
            lambda p: jnp.asarray(rng.normal(size=p.shape) / 2, jnp.float32), nnx.state(net)
        ),
    )
    x, c = rng.normal(size=(2, 4, 8, 3)).astype(np.float32), jnp.array([-1.0, 0.5])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(net)))
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    cut = np.stack(
        [x[:, i : i + 2, j : j + 2].reshape(2, 12) for i in (0, 2) for j in (0, 2, 4, 6)], axis=1
    )
    h = dense("dense_in", cut) + np.asarray(positions(2, 4, 8))
    emb = np.asarray(net.conditioning(c, None), np.float64)
    steer = dense("steer", emb / (1 + np.exp(-emb)))[:, None]
    normal = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
    out = dense("dense_out", (1 + steer[..., 8:]) * normal + steer[..., :8])
    want = np.zeros_like(x)
    for square, (i, j) in enumerate((i, j) for i in (0, 2) for j in (0, 2, 4, 6)):
        want[:, i : i + 2, j : j + 2] = out[:, square].reshape(2, 2, 2, 3)
    np.testing.assert_allclose(net(jnp.asarray(x), c), want, rtol=1e-4, atol=1e-4)


def test_a_new_network_says_nothing_and_is_steered_by_nothing():
    net = models.DiT((2, 2, 1), width=8, depth=1, heads=2, rngs=models.rngs_of(0))
    assert not any(
        np.any(p[...])
        for layer in (net.dense_out, net.steer, net.blocks[0].steer)
        for p in (layer.kernel, layer.bias)
    )


def test_a_new_network_starts_with_the_published_scales():
    """arXiv:2212.09748 and its code: normal of 0.02 for what embeds the noise level, Xavier's uniform elsewhere.

    Of n numbers a standard deviation is known to 1 / sqrt(2 n); the bounds are 6 of them, passed less than once in 1e8 times.
    """
    net = models.DiT((4, 4, 4), width=64, depth=1, heads=2, num_classes=99, rngs=models.rngs_of(0))
    for layer in (net.conditioning.dense0, net.conditioning.dense1):
        kernel = np.asarray(layer.kernel[...])
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=6 / np.sqrt(2 * kernel.size))
    block = net.blocks[0]
    for layer in (net.dense_in, block.qkv, block.out, block.dense0, block.dense1):
        kernel = np.asarray(layer.kernel[...])
        size = np.sqrt(6 / sum(kernel.shape))
        np.testing.assert_allclose(kernel.std(), size / np.sqrt(3), rtol=6 / np.sqrt(kernel.size))
        assert np.abs(kernel).max() <= size


def test_what_is_dropped_is_what_the_last_map_sees():
    """Where that map is the identity, each number is zero or 1 / (1 - rate) times what it is without dropout."""
    block = DiTBlock(8, 2, 1.0, 0.5, None, rngs=models.rngs_of(0))
    block.dense1.kernel[...] = jnp.eye(8)
    block.steer.bias[...] = (
        jnp.zeros(48).at[40:].set(1.0)
    )  # the perceptron's gate is open, that of attention shut
    h, emb = (
        jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        for shape in ((4, 8, 8), (4, 8))
    )
    dropped = np.asarray(block(h, emb, nnx.Rngs(dropout=1)) - h)
    whole = np.asarray(nnx.view(block, deterministic=True)(h, emb, None) - h)
    np.testing.assert_allclose(dropped * (dropped - 2 * whole), 0, atol=1e-5)
    assert (
        0.3 < np.mean(np.abs(dropped) < 1e-6) < 0.7
    )  # of 256 numbers; a fair coin leaves that but once in 1e9 times


@pytest.mark.parametrize(
    "settings, message",
    [({"patch": 3}, "squares of 3"), ({"heads": 5}, "5 heads"), ({"dtype": "half"}, "'half'")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        models.DiT((8, 8, 1), **settings, rngs=models.rngs_of(0))
