"""The transformer is the published one: its size, its patches, and its first blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.dit import DiTBlock, patches, pixels, positions


def test_dit_xl_2_has_the_published_number_of_parameters():
    """675,129,632 of the published DiT-XL/2 (arXiv:2212.09748), less what ours does not have.

    Those are the stored positions and the second output, for a learned variance.
    """
    settings = {
        "width": 1152,
        "depth": 28,
        "heads": 16,
        "num_classes": 1000,
        "embedding": "positional_open",
    }
    net = nnx.eval_shape(lambda: models.DiT((32, 32, 4), **settings, rngs=models.rngs_of(0)))
    stored_positions = 256 * 1152
    second_output = (1152 + 1) * 2 * 2 * 4
    number = sum(p.size for p in jax.tree.leaves(nnx.state(net)))
    assert number == 675_129_632 - stored_positions - second_output


def test_patches_are_squares_row_by_row_and_come_together_again():
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    cut = np.asarray(patches(jnp.asarray(x), 2))
    assert cut.shape == (2, 6, 12)
    np.testing.assert_array_equal(cut[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(pixels(jnp.asarray(cut), (4, 6, 3), 2), x)


def test_every_position_differs_from_the_others_and_rows_from_columns():
    embedded = np.asarray(positions(5, 7, 16))
    distance = np.abs(embedded[:, None] - embedded[None]).max(-1) + np.eye(35)
    assert distance.min() > 0.1
    column, row = embedded.reshape(5, 7, 2, 8).transpose(2, 0, 1, 3)
    assert np.ptp(column, axis=0).max() == 0
    assert np.ptp(row, axis=1).max() == 0


def normalised(x):
    """Return x at mean 0 and variance 1 over its last axis."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_a_block_is_its_definition():
    rng = np.random.default_rng(0)
    block = DiTBlock(8, 2, 2.0, 0.0, None, rngs=models.rngs_of(0))
    h = rng.normal(size=(2, 3, 8)).astype(np.float32)
    emb = rng.normal(size=(2, 8)).astype(np.float32)
    # a new block is the identity
    np.testing.assert_array_equal(block(jnp.asarray(h), jnp.asarray(emb), None), h)
    block.steer.kernel[...] = jnp.asarray(rng.normal(size=(8, 48)), jnp.float32) / 3
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(block)))
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    steer = (emb @ p["steer"]["kernel"])[:, None]
    b1, s1, g1, b2, s2, g2 = np.split(steer, 6, axis=-1)
    qkv = dense("qkv", (1 + s1) * normalised(h) + b1)
    q, k, v = (part.reshape(2, 3, 2, 4) for part in np.split(qkv, 3, axis=-1))
    weight = np.exp(np.einsum("bqhc,bkhc->bhqk", q, k) / 2)
    weight = weight / weight.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhc->bqhc", weight, v).reshape(2, 3, 8)
    want = h + g1 * dense("out", mixed)
    inner = dense("dense0", (1 + s2) * normalised(want) + b2)
    gelu = inner / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
    want = want + g2 * dense("dense1", gelu)
    np.testing.assert_allclose(
        block(jnp.asarray(h), jnp.asarray(emb), None), want, rtol=1e-4, atol=1e-4
    )


def test_what_is_around_the_blocks_is_its_definition():
    """Without blocks, of a wide image: patches, positions and the last normalisation."""
    net = models.DiT((4, 8, 3), width=8, depth=0, heads=2, rngs=models.rngs_of(0))
    rng = np.random.default_rng(0)
    fill = lambda p: jnp.asarray(rng.normal(size=p.shape) / 2, jnp.float32)  # noqa: E731
    nnx.update(net, jax.tree.map(fill, nnx.state(net)))
    x = rng.normal(size=(2, 4, 8, 3)).astype(np.float32)
    c = jnp.array([-1.0, 0.5])
    corners = [(i, j) for i in (0, 2) for j in (0, 2, 4, 6)]
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(net)))
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    squares = [x[:, i : i + 2, j : j + 2].reshape(2, 12) for i, j in corners]
    h = dense("dense_in", np.stack(squares, axis=1)) + np.asarray(positions(2, 4, 8))
    emb = np.asarray(net.conditioning(c, None), np.float64)
    steer = dense("steer", emb / (1 + np.exp(-emb)))[:, None]
    shift, scale = np.split(steer, 2, axis=-1)
    out = dense("dense_out", (1 + scale) * normalised(h) + shift)
    want = np.zeros_like(x)
    for square, (i, j) in enumerate(corners):
        want[:, i : i + 2, j : j + 2] = out[:, square].reshape(2, 2, 2, 3)
    np.testing.assert_allclose(net(jnp.asarray(x), c), want, rtol=1e-4, atol=1e-4)


def test_a_new_network_says_nothing_and_is_steered_by_nothing():
    net = models.DiT((2, 2, 1), width=8, depth=1, heads=2, rngs=models.rngs_of(0))
    for layer in (net.dense_out, net.steer, net.blocks[0].steer):
        assert not np.any(layer.kernel[...])
        assert not np.any(layer.bias[...])


def test_a_new_network_starts_with_the_published_scales():
    """arXiv:2212.09748 and its code: a normal of 0.02 for the noise level, else Xavier's uniform.

    Of n numbers a standard deviation is known to 1 / sqrt(2 n). The bounds are 6 of them, which
    chance passes less than once in 1e8 times.
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
    """Where it is the identity, a number is zero or 1 / (1 - rate) times its undropped value."""
    block = DiTBlock(8, 2, 1.0, 0.5, None, rngs=models.rngs_of(0))
    block.dense1.kernel[...] = jnp.eye(8)
    # the gate of the perceptron is open, that of attention shut
    block.steer.bias[...] = jnp.zeros(48).at[40:].set(1.0)
    h = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8)), jnp.float32)
    emb = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)
    dropped = np.asarray(block(h, emb, nnx.Rngs(dropout=1)) - h)
    whole = np.asarray(nnx.view(block, deterministic=True)(h, emb, None) - h)
    np.testing.assert_allclose(dropped * (dropped - 2 * whole), 0, atol=1e-5)
    # of 256 numbers; a fair coin leaves these bounds but once in 1e9 times
    assert 0.3 < np.mean(np.abs(dropped) < 1e-6) < 0.7


@pytest.mark.parametrize(
    "settings, message",
    [({"patch": 3}, "squares of 3"), ({"heads": 5}, "5 heads"), ({"dtype": "half"}, "'half'")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        models.DiT((8, 8, 1), **settings, rngs=models.rngs_of(0))
