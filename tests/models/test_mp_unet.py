"""The operations keep magnitudes, weights count by direction only, and the sizes are EDM2's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.mp_unet import MPBlock, MPConv, mp_cat, mp_silu, mp_sum, normalised, unit
from models.resample import resampler


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def magnitude(x):
    return float(jnp.sqrt(jnp.mean(jnp.asarray(x) ** 2)))


@pytest.mark.parametrize("nf, published", [(128, 125e6), (192, 280e6), (448, 1.5e9)])
def test_the_sizes_are_the_published_ones(nf, published):
    """Karras et al. 2024 (arXiv:2312.02696), table 4: millions of parameters of XS, S and XXL."""
    net = nnx.eval_shape(
        lambda: models.MPUNet((64, 64, 4), nf=nf, num_classes=1000, rngs=models.rngs_of(0))
    )
    number = sum(p.size for p in jax.tree.leaves(nnx.state(net)))
    assert number == pytest.approx(published, rel=0.02)


def test_sums_concatenations_and_silu_keep_magnitude():
    """Of 1e5 normal numbers the root mean square is within 0.01 of 1 but once in 1e5 times."""
    a = normal(500, 100, seed=1)
    b = normal(500, 300, seed=2)
    assert magnitude(mp_silu(a)) == pytest.approx(1, abs=0.015)
    for t in (0.3, 0.5):
        assert magnitude(mp_sum(a, b[:, :100], t)) == pytest.approx(1, abs=0.015)
        both = mp_cat(a, b, t)
        assert magnitude(both) == pytest.approx(1, abs=0.015)
        ratio = float(jnp.sum(both[:, 100:] ** 2) / jnp.sum(both[:, :100] ** 2))
        assert ratio == pytest.approx((t / (1 - t)) ** 2, rel=0.05)  # whatever the widths


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_weight_counts_by_its_direction_and_keeps_magnitude(size):
    conv = MPConv(16, 64, size, rngs=models.rngs_of(0))
    x = normal(8, 16, 16, 16) if size else normal(400, 16)
    y = conv(x)
    inner = y[:, 1:-1, 1:-1] if size else y
    assert magnitude(inner) == pytest.approx(1, abs=0.05)
    conv.weight[...] = 7 * conv.weight[...]
    # the same but for the 1e-4 that keeps zero weights finite
    np.testing.assert_allclose(conv(x), y, rtol=1e-2, atol=2e-3)
    params = normalised(nnx.to_pure_dict(nnx.state(conv)))
    assert magnitude(params["weight"]) == pytest.approx(1, abs=1e-3)


def test_a_block_is_its_definition():
    block = MPBlock(8, 16, 12, encoder=True, attend=True, head_features=8, rngs=models.rngs_of(0))
    block.gain[...] = jnp.float32(0.7)
    x = normal(2, 3, 3, 8, seed=3)
    emb = normal(2, 12, seed=4)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(block)))
    x64 = np.asarray(x, np.float64)
    emb64 = np.asarray(emb, np.float64)

    def rms(a, axis):
        return a / (1e-4 + np.sqrt(np.mean(a**2, axis=axis, keepdims=True)))

    silu = lambda a: a / (1 + np.exp(-a)) / 0.596  # noqa: E731
    total = lambda a, b: (0.7 * a + 0.3 * b) / np.sqrt(0.58)  # noqa: E731

    def conv(a, w):
        w = rms(w, tuple(range(w.ndim - 1))) / np.sqrt(w[..., 0].size)
        if w.ndim == 2:
            return a @ w
        size = w.shape[0]
        n = size // 2
        a = np.pad(a, [(0, 0), (n, n), (n, n), (0, 0)])
        shifts = [(i, j) for i in range(size) for j in range(size)]
        return sum(a[:, i : i + 3, j : j + 3] @ w[i, j] for i, j in shifts)

    h = rms(conv(x64, p["shortcut"]["weight"]), -1)
    scale = (1 + 0.7 * conv(emb64, p["cond"]["weight"]))[:, None, None]
    y = conv(silu(h), p["conv0"]["weight"]) * scale
    h = total(h, conv(silu(y), p["conv1"]["weight"]))
    qkv = conv(h, p["qkv"]["weight"]).reshape(2, 9, 6, 8)
    q, k, v = (rms(part, -1) for part in np.split(qkv, 3, axis=2))
    weight = np.exp(np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(8))
    weight = weight / weight.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhc->bqhc", weight, v).reshape(2, 3, 3, 16)
    want = total(h, conv(mixed, p["out"]["weight"]))
    np.testing.assert_allclose(block(x, emb, None), want, rtol=1e-4, atol=1e-4)


FAST = {"xla_backend_optimization_level": 0}  # compiles in less than half the time


def build(key=0):
    return models.MPUNet(
        (4, 4, 2),
        nf=8,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=(),
        num_classes=3,
        rngs=nnx.Rngs(key),
    )


@pytest.fixture(scope="module")
def small():
    """Return a network of one level of one block, and parameters such as training leaves behind."""
    split = models.split(nnx.eval_shape(build))
    leaves, tree = jax.tree.flatten(split.params)
    drawn = [normal(*p.shape, seed=i) for i, p in enumerate(leaves)]
    return split.evaluate, jax.tree.unflatten(tree, drawn)


def test_a_new_network_says_nothing_and_its_blocks_do_not_see_the_embedding():
    def gains_of(key):
        leaves = jax.tree_util.tree_leaves_with_path(models.split(build(key)).params)
        return [p for path, p in leaves if path[-1].key == "gain"]

    gains = jax.jit(gains_of)(jax.random.key(0, impl="rbg"))  # what is not returned is not drawn
    assert len(gains) == 6
    assert not any(gains)


def test_the_embedding_is_its_definition(small):
    """A sum of two vectors of unit magnitude (Karras et al. 2024, appendix B).

    A label is sqrt(n) times its row. The random frequencies are not trained.
    """
    evaluate, params = small
    c = np.array([-1.0, 0.2, 0.5])
    labels = [2, 0, 3]

    def embed(params):
        emb = models.merge(evaluate, params).embed(jnp.asarray(c, jnp.float32), jnp.array(labels))
        return emb.sum(), emb

    slope, got = jax.jit(jax.grad(embed, has_aux=True))(params)
    assert not np.any(slope["frequencies"])
    assert not np.any(slope["phases"])
    assert np.any(slope["dense"]["weight"])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    unit_rows = lambda w: w / np.sqrt((w**2).sum(0))  # noqa: E731
    waves = np.cos(2 * np.pi * (c[:, None] * p["frequencies"] + p["phases"]))
    noise = np.sqrt(2) * waves @ unit_rows(p["dense"]["weight"])
    label = np.sqrt(3) * np.eye(4)[labels][:, :3] @ unit_rows(p["label"]["weight"])
    total = (noise + label) / np.sqrt(2)
    np.testing.assert_allclose(got, total / (1 + np.exp(-total)) / 0.596, rtol=1e-3, atol=1e-3)


def test_the_network_is_its_blocks_and_a_skip_counts_as_much_as_the_state(small):
    """Where both are equally wide, as here, they are concatenated plainly.

    A channel of ones stands for the bias.
    """
    evaluate, params = small
    x = normal(2, 4, 4, 2)
    c = jnp.array([-1.0, 0.5])

    def by_hand(params):
        net = models.merge(evaluate, params)
        emb = net.embed(c, None)
        h0 = net.conv_in(jnp.pad(x, [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=1.0))
        h1 = net.down[0].blocks[0](h0, emb, None)
        h = net.middle1(net.middle0(h1, emb, None), emb, None)
        for block, skip in zip(net.up[0].blocks, (h1, h0), strict=True):
            h = block(jnp.concatenate([h, skip], axis=-1), emb, None)
        return net.conv_out(h, params["gain"])

    def network(params):
        return models.merge(evaluate, params)(x, c)

    got = jax.jit(network, compiler_options=FAST)(params)
    want = jax.jit(by_hand, compiler_options=FAST)(params)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_only_the_way_down_normalises_pixels():
    settings = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "num_classes": 0}
    net = nnx.eval_shape(lambda: models.MPUNet((8, 8, 1), **settings, rngs=models.rngs_of(0)))

    def blocks(levels):
        steps = [level.resample for level in levels if level.resample is not None]
        return [block for level in levels for block in level.blocks] + steps

    down = blocks(net.down)
    up = blocks(net.up)
    assert [b.encoder for b in down] == [True] * 3
    assert [b.encoder for b in (net.middle0, net.middle1, *up)] == [False] * 7


def test_a_block_on_the_way_up_is_its_definition_within_the_limit():
    """Without attention: the input is not normalised, and is as wide as it was until the sum."""
    block = MPBlock(16, 8, 12, encoder=False, rngs=models.rngs_of(0))
    block.gain[...] = jnp.float32(0.7)
    x = 300 * normal(2, 3, 3, 16, seed=3)
    emb = normal(2, 12, seed=4)

    def both(x, emb):
        scale = (1 + block.cond(emb, 0.7))[:, None, None]
        y = block.conv1(mp_silu(block.conv0(mp_silu(x)) * scale))
        want = (0.7 * block.shortcut(x) + 0.3 * y) / np.float32(np.sqrt(0.58))
        return block(x, emb, None), want

    got, want = jax.jit(both, compiler_options=FAST)(x, emb)
    np.testing.assert_allclose(got, np.clip(want, -256, 256), rtol=1e-4, atol=1e-3)
    assert got.min() == -256 and got.max() == 256


def test_what_is_dropped_is_what_the_last_convolution_sees():
    """Where it is the identity, a number is zero or 1 / (1 - rate) times its undropped value."""
    block = MPBlock(8, 8, 12, encoder=False, dropout=0.5, rngs=models.rngs_of(0))
    block.conv1.weight[...] = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    x = normal(2, 4, 4, 8, seed=3)
    emb = normal(2, 12, seed=4)
    shortcut = mp_sum(x, 0 * x, 0.3)
    dropped = np.asarray(block(x, emb, nnx.Rngs(dropout=1)) - shortcut)
    whole = np.asarray(nnx.view(block, deterministic=True)(x, emb, None) - shortcut)
    np.testing.assert_allclose(dropped * (dropped - 2 * whole), 0, atol=1e-5)
    # of 256 numbers; a fair coin leaves these bounds but once in 1e9 times
    assert 0.3 < np.mean(np.abs(dropped) < 1e-6) < 0.7


def test_a_pixel_of_zeros_stays_finite():
    assert bool(jnp.isfinite(unit(jnp.zeros((2, 3)), -1)).all())
    slope = jax.grad(lambda x: unit(x, -1).sum())(jnp.zeros((2, 3)))
    assert bool(jnp.isfinite(slope).all())


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("encoder", [True, False])
def test_a_block_that_changes_the_resolution_is_one_behind_the_change(direction, encoder):
    block = MPBlock(8, 16, 12, encoder=encoder, resample=direction, rngs=models.rngs_of(0))
    block.gain[...] = jnp.float32(0.7)
    x = normal(2, 4, 6, 8, seed=3)
    emb = normal(2, 12, seed=4)
    got = block(x, emb, None)
    block.resample = "none"
    want = block(resampler(direction)(x), emb, None)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
