"""The U-Net is the published one, and says so when images do not fit."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import models


def count(**settings):
    net = nnx.eval_shape(lambda: models.UNet(rngs=nnx.Rngs(0), embedding="positional", **settings))
    return sum(p.size for p in jax.tree.leaves(nnx.state(net)))


def test_ddpmpp_has_the_published_number_of_parameters():
    """DDPM++ of Song et al. 2021 (arXiv:2011.13456) for 32 x 32 x 3; counted there with the reference code."""
    settings = {"nf": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attn_resolutions": (16,)}
    assert count(shape=(32, 32, 3), **settings) == 61_804_419


@pytest.mark.parametrize("shape, ch_mult", [((8, 8, 1), (1, 2)), ((8, 12, 3), (1, 1, 1)), ((6, 10, 1), (1,)), ((16, 16, 2), (1, 2, 2))])
def test_any_size_that_halves_often_enough(shape, ch_mult):
    def call(x, c_noise):
        return models.UNet(shape, nf=8, ch_mult=ch_mult, num_res_blocks=1, rngs=nnx.Rngs(0))(x, c_noise)

    assert jax.eval_shape(call, jnp.zeros((2, *shape)), jnp.zeros(2)).shape == (2, *shape)


def test_a_size_that_does_not_halve_names_the_remedy():
    with pytest.raises(
        ValueError, match=r"\(28, 30, 1\) cannot be halved 2 times .* multiples of 4; pad or crop the images, or shorten ch_mult"
    ):
        models.UNet((28, 30, 1), ch_mult=(1, 2, 2), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "settings, message", [({"ch_mult": ()}, "ch_mult"), ({"num_res_blocks": 0}, "num_res_blocks"), ({"nf": 10}, "channels")]
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(lambda: models.UNet((8, 8, 1), **settings, rngs=nnx.Rngs(0)))


def test_attention_stands_where_it_is_asked_for():
    with_extra, without = (count(shape=(8, 8, 1), nf=8, attn_resolutions=r) for r in ((4, 8), ()))
    one = {c: 2 * c + (3 * c * c + 3 * c) + (c * c + c) for c in (8, 16)}  # norm, qkv, out
    assert with_extra - without == 3 * one[8] + 3 * one[16]  # behind two blocks down and the last one up, at each of two levels
