"""Settings of a network that make no sense are refused, with the setting and its value."""

import flax.nnx as nnx
import pytest

import models
from models.settings import check_attention

IMAGE = (8, 8, 1)
WRONG = [
    (models.MLP, (2,), {"depth": -1}),
    (models.MLP, (2,), {"width": 0}),
    (models.MLP, (2,), {"dropout": 2.0}),
    (models.MLP, (2,), {"dropout": float("nan")}),
    (models.DiT, IMAGE, {"depth": -1}),
    (models.DiT, IMAGE, {"heads": 0}),
    (models.DiT, IMAGE, {"mlp_ratio": 0.0}),
    (models.DiT, IMAGE, {"dropout": 1.0}),
    (models.UNet, IMAGE, {"nf": 0}),
    (models.UNet, IMAGE, {"ch_mult": (0,)}),
    (models.UNet, IMAGE, {"ch_mult": (1, -2)}),
    (models.UNet, IMAGE, {"num_res_blocks": 0}),
    (models.UNet, IMAGE, {"dropout": -0.1}),
    (models.UNet, IMAGE, {"normalisation": {"groups": -1}}),
    (models.UNet, IMAGE, {"normalisation": {"middle_groups": -1}}),
    (models.UNet, IMAGE, {"normalisation": {"attention_groups": -1}}),
    (models.UNet, IMAGE, {"normalisation": {"up_groups": -1}}),
    (models.UNet, IMAGE, {"normalisation": {"eps": 0.0}}),
    (models.UNet, IMAGE, {"attention": {"head_features": -4}}),
    (models.UNet, IMAGE, {"residual": {"init_scale": -1.0}}),
    (models.UNet, IMAGE, {"residual": {"middle_rescale": 0.0}}),
    (models.UNet, IMAGE, {"conditioning": {"fourier_scale": float("nan")}}),
    (models.UNet, IMAGE, {"resampling": {"fir": True, "kernel": (1, -1)}}),
    (models.UNet, IMAGE, {"attn_resolutions": (0,)}),
    (models.UNet, IMAGE, {"scale_by_sigma": True, "sigmas": (1.0, 0.0, 10)}),
    (models.MPUNet, IMAGE, {"nf": 0}),
    (models.MPUNet, IMAGE, {"ch_mult": (1, -1)}),
    (models.MPUNet, IMAGE, {"head_features": 0}),
    (models.MPUNet, IMAGE, {"num_res_blocks": 0}),
    (models.MPUNet, IMAGE, {"dropout": 1.5}),
    (models.NCSN, IMAGE, {"ch_mult": (1, 0, 2, 2)}),
    (models.NCSN, IMAGE, {"dilations": (1, 0, 2, 4)}),
    (models.NCSN, IMAGE, {"sigmas": (1.0, 0.1, 1)}),
    (models.ImageClassifier, IMAGE, {"num_classes": 1}),
    (models.ImageClassifier, IMAGE, {"num_classes": 3, "nf": 0}),
    (models.ImageClassifier, IMAGE, {"num_classes": 3, "num_res_blocks": 0}),
    (models.ImageClassifier, IMAGE, {"num_classes": 3, "dropout": -0.1}),
    (models.VectorClassifier, (2,), {"num_classes": 1}),
    (models.VectorClassifier, (2,), {"num_classes": 3, "width": 0}),
    (models.VectorClassifier, (2,), {"num_classes": 3, "depth": -1}),
]


@pytest.mark.parametrize("network, shape, wrong", WRONG, ids=lambda value: str(value))
def test_a_setting_that_makes_no_sense_is_refused_by_name(network, shape, wrong):
    one_level = {"ch_mult": (1,)} if network in (models.UNet, models.MPUNet) else {}
    name, value = list(wrong.items())[-1]
    if isinstance(value, dict):  # a group of settings
        setting, value = list(value.items())[-1]
        name = f"{name}.{setting}"
    with pytest.raises(ValueError, match=name.replace("ch_mult", "ch_mult|multiple")) as error:
        network(shape, **{**one_level, **wrong}, rngs=nnx.Rngs(0))
    value = min(value) if isinstance(value, tuple) else value
    assert f"{value:g}" in str(error.value) or f"{value}" in str(error.value)


def test_every_public_network_is_among_them():
    networks = {
        n for n in vars(models).values() if isinstance(n, type) and issubclass(n, nnx.Module)
    }
    assert networks == {network for network, _, _ in WRONG}


def test_attention_at_a_height_that_no_level_has_is_warned_of():
    check_attention((16, 8, 4, 2), [8, 4])  # 16 is for larger images, 2 for more levels
    with pytest.warns(
        UserWarning, match="attn_resolutions has 3, but the levels have heights 8, 4"
    ):
        check_attention((3,), [8, 4])
    with pytest.raises(ValueError, match="need attn_resolutions >= 1, got -4"):
        check_attention((-4,), [8, 4])
