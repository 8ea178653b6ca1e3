"""The U-Net is the published one, and says so when images do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from models.unet_settings import Groups
from tests.models.networks import fast_key, filled

# group -> (the default of a setting, another value of it)
OTHER_VALUES = {
    "attention": (True, {"middle": False}),
    "conditioning": (False, {"scale_shift": True}),
    "normalisation": (1e-6, {"eps": 1e-5}),
    "pyramids": ("none", {"input": "residual"}),
    "resampling": (False, {"fir": True}),
    "residual": (True, {"skip_rescale": False}),
}


def count(**settings):
    net = nnx.eval_shape(lambda: models.UNet(rngs=models.rngs_of(0), **settings))
    return sum(p.size for p in jax.tree.leaves(nnx.state(net)))


SMALL = {
    "shape": (32, 32, 3),
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "num_res_blocks": 4,
    "attn_resolutions": (16,),
}
POSITIONAL = {"embedding": "positional"}
NCSNPP = SMALL | {
    "embedding": "fourier",
    "resampling": {"fir": True},
    "pyramids": {"input": "residual"},
}
PYRAMIDS = {
    "embedding": "fourier",
    "resampling": {"fir": True},
    "pyramids": {"input": "input_skip", "output": "output_skip"},
}
DDPM = (
    SMALL
    | POSITIONAL
    | {
        "num_res_blocks": 2,
        "resampling": {"resblock_type": "ddpm"},
        "residual": {"skip_rescale": False},
        "normalisation": {"groups": 32},
    }
)
LARGE = {"shape": (256, 256, 3), "num_res_blocks": 2}


@pytest.mark.parametrize(
    "settings, published",
    [
        (NCSNPP, 62_758_915),
        (NCSNPP | {"num_res_blocks": 8}, 107_587_075),
        (NCSNPP | POSITIONAL, 62_693_251),
        (SMALL | POSITIONAL, 61_804_419),
        (SMALL | POSITIONAL | {"num_res_blocks": 8}, 106_632_579),
        (DDPM, 35_218_947),
        (DDPM | {"embedding": "none"}, 32_329_347),
        (SMALL | LARGE | PYRAMIDS | {"ch_mult": (1, 1, 2, 2, 2, 2, 2)}, 65_574_549),
        (
            SMALL
            | PYRAMIDS
            | {
                "shape": (1024, 1024, 3),
                "nf": 16,
                "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
                "num_res_blocks": 1,
            },
            105_785_896,
        ),
        (DDPM | LARGE | {"ch_mult": (1, 1, 2, 2, 4, 4)}, 111_569_923),
    ],
)
def test_the_published_networks_have_their_number_of_parameters(settings, published):
    """Song et al. 2021 (arXiv:2011.13456), counted there with the reference code."""
    assert count(**settings) == published


@pytest.mark.parametrize(
    "shape, ch_mult",
    [((8, 8, 1), (1, 2)), ((8, 12, 3), (1, 1, 1)), ((6, 10, 1), (1,)), ((16, 16, 2), (1, 2, 2))],
)
def test_any_size_that_halves_often_enough(shape, ch_mult):
    settings = {"nf": 8, "ch_mult": ch_mult, "num_res_blocks": 1}

    def call(x, c_noise):
        return models.UNet(shape, **settings, rngs=models.rngs_of(0))(x, c_noise)

    assert jax.eval_shape(call, jnp.zeros((2, *shape)), jnp.zeros(2)).shape == (2, *shape)


def test_a_border_is_put_around_an_image_and_cut_off_again():
    """The network of 6 x 6 pixels with a border of 1 is that of 8 x 8 on the image with zeros."""
    settings = {"nf": 4, "ch_mult": (1,), "num_res_blocks": 1, "cond_channels": 1}

    def split(shape, pad):
        def make():
            return models.UNet(shape, pad=pad, **settings, rngs=models.rngs_of(0))

        return models.split(nnx.eval_shape(make))

    inner = split((6, 6, 2), 1)
    outer = split((8, 8, 2), 0)
    params = filled(inner.params)
    x, image = jnp.split(jax.random.normal(fast_key(0), (3, 6, 6, 3)), [2], axis=-1)
    c_noise = jnp.linspace(-1.0, 1.0, 3)

    @jax.jit
    def both(params):
        around = ((0, 0), (1, 1), (1, 1), (0, 0))
        y = models.merge(inner.evaluate, params)(x, c_noise, image)
        larger = models.merge(outer.evaluate, params)
        return y, larger(jnp.pad(x, around), c_noise, jnp.pad(image, around))

    y, expected = both(params)
    np.testing.assert_allclose(y, expected[:, 1:7, 1:7], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pyramids", [{}, PYRAMIDS])
def test_a_border_makes_room_for_more_levels(pyramids):
    settings = pyramids | {"nf": 8, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1, "pad": 2}

    def call(x, c_noise):
        return models.UNet(x.shape[1:], **settings, rngs=models.rngs_of(0))(x, c_noise)

    x = jnp.zeros((2, 28, 20, 1))
    assert jax.eval_shape(call, x, jnp.zeros(2)).shape == x.shape


@pytest.mark.parametrize(
    "shape, pad, message",
    [
        ((28, 28, 1), 1, r"\(30, 30, 1\) cannot be halved 3 times"),
        ((28, 28, 1), -2, "need pad >= 0, got -2"),
        ((28,), 2, "UNet needs shape"),
    ],
)
def test_a_border_that_does_not_help_is_refused(shape, pad, message):
    with pytest.raises(ValueError, match=message):
        models.UNet(shape, pad=pad, ch_mult=(1, 1, 1, 1), rngs=models.rngs_of(0))


@pytest.mark.parametrize("pad", [0, 1])
def test_a_size_that_a_border_would_let_halve_names_that_border(pad):
    message = r"or let the network put a border around them: pad=2 \(config.net.pad\)$"
    with pytest.raises(ValueError, match=message):
        models.UNet((28, 20, 1), pad=pad, ch_mult=(1, 1, 1, 1), rngs=models.rngs_of(0))
    for shape in ((28, 32, 1), (27, 27, 1)):  # no border does
        with pytest.raises(ValueError, match="shorten ch_mult$"):
            models.UNet(shape, pad=pad, ch_mult=(1, 1, 1, 1), rngs=models.rngs_of(0))
    with pytest.raises(ValueError, match="shorten ch_mult$"):  # it has no such setting
        models.MPUNet((28, 28, 1), ch_mult=(1, 1, 1, 1), rngs=models.rngs_of(0))


def test_a_size_that_does_not_halve_names_the_remedy():
    message = (
        r"\(28, 30, 1\) cannot be halved 2 times .* multiples of 4; "
        "pad or crop the images, or shorten ch_mult"
    )
    with pytest.raises(ValueError, match=message):
        models.UNet((28, 30, 1), ch_mult=(1, 2, 2), rngs=models.rngs_of(0))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"ch_mult": ()}, "ch_mult"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"nf": 10}, "channels"),
        (
            {"pyramids": {"output": "skip"}},
            "unknown pyramids.output 'skip'; choose one of none, output_skip, residual",
        ),
        ({"pyramids": {"input": "output_skip"}}, "unknown pyramids.input 'output_skip'"),
        (
            {"pyramids": {"combine": "add"}},
            "unknown pyramids.combine 'add'; choose one of sum, cat",
        ),
        ({"attention": {"head_features": 7}}, "heads of 7"),
        ({"attention": {"up": "first"}}, "unknown attention.up 'first'; choose one of last, every"),
        ({"attention": {"up_resolutions": (0,)}}, "need attn_resolutions >= 1, got 0"),
        ({"attention": "cudnn"}, "needs attention as AttentionSettings or as a dictionary"),
        ({"conditioning": {"label_into": "x"}}, "unknown label_into 'x'"),
        ({"resampling": {"resblock_type": "edm"}}, "unknown resampling.resblock_type 'edm'"),
        ({"resampling": {"up_steps": ("edm",)}}, "need 1 resampling.up_steps, each biggan or ddpm"),
        ({"resampling": {"down_steps": ()}}, "need 1 resampling.down_steps, each biggan or ddpm"),
        ({"resampling": {"fri": True}}, "no setting resampling.fri; did you mean resampling.fir?"),
        ({"embedding": "none", "num_classes": 3}, "takes no labels"),
        ({"sigmas": (50, 0.01, 1000)}, "says what scale_by_sigma divides by"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: models.UNet((8, 8, 1), **settings, rngs=models.rngs_of(0)))


def test_attention_stands_where_it_is_asked_for():
    everywhere = count(shape=(8, 8, 1), nf=8, attn_resolutions=(4, 8))
    in_the_middle = count(shape=(8, 8, 1), nf=8, attn_resolutions=())
    one = {c: 2 * c + (3 * c * c + 3 * c) + (c * c + c) for c in (8, 16)}  # norm, qkv, out
    # behind two blocks on the way down and the last one on the way up, at each of two levels
    assert everywhere - in_the_middle == 3 * one[8] + 3 * one[16]


def abstract(**settings):
    return nnx.eval_shape(
        lambda: models.UNet((8, 8, 1), nf=8, num_res_blocks=1, rngs=models.rngs_of(0), **settings)
    )


@pytest.mark.parametrize(
    "settings, down, middle, up",
    [
        ({"attn_resolutions": (4,)}, [[0], [1]], [1, 0], [[0, 1], [0, 0]]),
        (
            {"attn_resolutions": (4,), "attention": {"up": "every"}},
            [[0], [1]],
            [1, 0],
            [[1, 1], [0, 0]],
        ),
        (
            {"attn_resolutions": (4,), "attention": {"up_resolutions": (8,)}},
            [[0], [1]],
            [1, 0],
            [[0, 0], [0, 1]],
        ),
        ({"attention": {"middle": False}}, [[0], [0]], [0, 0], [[0, 0], [0, 0]]),
    ],
)
def test_attention_stands_at_these_blocks(settings, down, middle, up):
    """Level by level in the order of the forward pass."""
    net = abstract(**settings)
    has = lambda blocks: [int(b.attention is not None) for b in blocks]  # noqa: E731
    assert [has(level.blocks) for level in net.down] == down
    assert has([net.middle0, net.middle1]) == middle
    assert [has(level.blocks) for level in net.up] == up


def test_each_step_is_of_the_kind_that_its_place_asks_for():
    steps = {"down_steps": ("ddpm", "biggan"), "up_steps": ("biggan", "ddpm")}
    net = abstract(ch_mult=(1, 1, 1), resampling=steps)
    kinds = lambda levels: [type(level.resample).__name__ for level in levels]  # noqa: E731
    assert kinds(net.down) == ["Resample", "ResBlock", "NoneType"]
    assert kinds(net.up) == ["Resample", "ResBlock", "NoneType"]  # from the lowest level upwards


def test_groups_and_divisors_are_those_of_the_place():
    """Groups of (both normalisations of a block, its attention)."""
    groups = {"groups": 2, "middle_groups": 8, "attention_groups": 4, "up_groups": 1}
    net = abstract(
        attn_resolutions=(4,),
        normalisation=groups,
        pyramids={"output": "output_skip"},
        residual={"skip_rescale": False, "middle_rescale": 3.0},
    )

    def of(b):
        return (
            b.norm0.groups,
            b.norm1.groups,
            b.attention.norm.groups if b.attention else None,
        )

    assert [of(b) for level in net.down for b in level.blocks] == [(2, 2, None), (2, 2, 4)]
    assert [of(b) for b in (net.middle0, net.middle1)] == [(8, 8, 8), (8, 8, None)]
    assert [of(b) for level in net.up for b in level.blocks] == [
        (1, 2, None),
        (1, 2, 4),
        (2, 2, None),
        (2, 2, None),
    ]
    assert [level.merge.norm.groups for level in net.up] == [2, 8]  # the last one is the output
    assert abstract(normalisation={"groups": 2, "middle_groups": 8}).norm_out.groups == 8
    blocks = (net.down[0].blocks[0], net.middle0, net.middle1, net.up[0].blocks[0])
    assert [b.style.rescale for b in blocks] == [1, 3, 3, 1]


@pytest.mark.parametrize("group, kind", Groups.__annotations__.items())
def test_a_group_is_given_as_its_class_or_as_a_dictionary(group, kind):
    default, other = OTHER_VALUES[group]
    assert getattr(kind(), next(iter(other))) == default  # the other value is another one
    by_class = abstract(embedding="none", **{group: kind(**other)})
    by_dictionary = abstract(embedding="none", **{group: other})
    assert nnx.graphdef(by_class) == nnx.graphdef(by_dictionary)
    assert nnx.graphdef(by_class) != nnx.graphdef(abstract(embedding="none"))


@pytest.mark.parametrize("output", ["none", "output_skip"])
def test_a_new_network_says_nothing(output):
    """What ends it starts at scale 1e-10."""
    settings = {"nf": 4, "ch_mult": (1,), "num_res_blocks": 1, "pyramids": {"output": output}}

    def last(key):
        net = models.UNet((2, 2, 1), **settings, rngs=nnx.Rngs(key))
        return (net.conv_out or net.up[0].merge.conv).kernel[...]

    assert float(jnp.abs(jax.jit(last)(jax.random.key(0, impl="rbg"))).max()) < 1e-4
