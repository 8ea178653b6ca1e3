"""Networks of diffusers compute here what they compute there, and ours go there and come back
bitwise.
"""

import itertools
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import experiments
import models
from experiments.convert import FORMATS, convert
from experiments.convert.diffusers import network, process
from experiments.convert.export import to_diffusers
from experiments.convert.safetensors import read_safetensors, write_safetensors
from experiments.errors import RunError
from experiments.modes.sample import sample
from experiments.storage.writing import write_json
from tests.experiments.settings import with_settings

SHAPE = (8, 8, 3)
DDPM = {
    "name": "UNet",
    "nf": 32,
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "embedding": "positional",
    "resampling": {"resblock_type": "ddpm"},
}
DDPM |= {"residual": {"skip_rescale": False}, "normalisation": {"groups": 32}}
# wide enough for 32 groups where diffusers has them
NCSNPP = {
    "name": "UNet",
    "nf": 64,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "embedding": "fourier",
    "resampling": {"fir": True},
}
NCSNPP |= {
    "pyramids": {"input": "input_skip", "output": "output_skip"},
    "scale_by_sigma": True,
    "centered": False,
}
INTO = {"conditioning": {"label_into": "embedding"}}


def numbered(net):
    """Return parameters for the settings of a network, no two numbers of them equal."""
    counter = itertools.count(1)
    settings = {k: v for k, v in net.items() if k != "name"}
    abstract = nnx.eval_shape(lambda: models.UNet(SHAPE, **settings, rngs=models.rngs_of(0)))
    shapes = models.split(abstract).params
    return jax.tree.map(
        lambda p: np.float32(next(counter) + np.arange(p.size) / p.size).reshape(p.shape), shapes
    )


def saved(folder, config, weights):
    """Save a network as diffusers does; return the file of its weights."""
    write_json(folder / "config.json", config)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", weights)
    return folder / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    "net, classes, known",
    [
        (DDPM, 0, True),
        (NCSNPP, 0, True),
        (DDPM | INTO, 3, True),
        (DDPM | INTO, 3, False),
        (NCSNPP | INTO, 1, True),
    ],
)
def test_ours_goes_to_diffusers_and_comes_back_bitwise(net, classes, known, tmp_path):
    params = numbered(net | {"num_classes": classes})
    if not known:
        params["conditioning"]["label"]["embedding"][-1] = np.nan
    config, weights = to_diffusers(net, SHAPE, params)
    assert config["num_class_embeds"] == (classes + known if classes else None)
    back = FORMATS["diffusers"](saved(tmp_path, config, weights), None)
    assert back.config.facts.num_classes == classes and back.config.train.conditional == (
        classes > 0
    )
    jax.tree.map(np.testing.assert_array_equal, back.ema, params)
    again, twice = to_diffusers(back.config.net.to_dict(), SHAPE, back.ema)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, twice, weights)


def test_what_augmentations_pass_through_is_left_out():
    """It adds nothing to what is drawn."""
    plain = numbered(DDPM)
    told = numbered(DDPM | {"augmentation": 9})
    kernel = told["conditioning"].pop("augmentation")["kernel"]
    assert kernel.shape[0] == 9
    config, weights = to_diffusers(DDPM, SHAPE, plain)
    plain["conditioning"]["augmentation"] = {"kernel": kernel}
    again, same = to_diffusers(DDPM, SHAPE, plain)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, same, weights)


def test_a_network_that_diffusers_has_not_is_refused_with_the_reason():
    for change, reason in [
        (
            {"resampling": {"fir": True, "kernel": (1, 2, 1)}},
            r"resampling.kernel = \(1, 2, 1\)",
        ),
        (
            {"pyramids": {**NCSNPP["pyramids"], "combine": "cat"}},
            "pyramids.combine = 'cat'",
        ),
        ({"scale_by_sigma": False}, "scale_by_sigma = False"),
        ({"nf": 32}, r"normalisation.attention_groups = \[16, 16\]"),
        ({"nonlinearity": "elu"}, "nonlinearity = 'elu'"),
        ({"resampling": {"fir": True, "resblock_type": "ddpm"}}, "resampling.down_steps"),
    ]:
        with pytest.raises(
            RunError, match=f"no UNet2DModel of diffusers is a network with .*{reason}"
        ):
            to_diffusers(NCSNPP | change, SHAPE, {})
    with pytest.raises(RunError, match="conditioning.label_into = 'hidden'"):
        to_diffusers(DDPM, SHAPE, numbered(DDPM | {"num_classes": 2}))
    with pytest.raises(RunError, match="not MLP"):
        to_diffusers({"name": "MLP"}, SHAPE, {})


def test_a_network_of_diffusers(networks, run, relative_errors):
    converted = FORMATS["diffusers"](networks / "diffusers_ddpm_cifar_like.safetensors", None)
    assert converted.config.sde.name == "VP" and converted.config.denoiser.inputs == "time"
    with np.load(networks / "diffusers_ddpm_cifar_like.npz") as file:
        y = run(converted, file["x"].transpose(0, 2, 3, 1), file["t"])
        assert relative_errors(y, file["y_f64"].transpose(0, 2, 3, 1)).max() < 5e-6


def test_a_label_is_added_to_the_embedding_of_time(networks, tmp_path, run, relative_errors):
    """So it does what its row does in the bias before; without a label, where theirs is an error,
    ours is NaN.
    """
    config = json.loads((networks / "diffusers_ddpm_cifar_like.config.json").read_text())
    weights = read_safetensors(networks / "diffusers_ddpm_cifar_like.safetensors")
    bias = weights["time_embedding.linear_2.bias"]
    rows = np.random.default_rng(0).standard_normal((3, len(bias))).astype(np.float32)
    labelled = FORMATS["diffusers"](
        saved(
            tmp_path, config | {"num_class_embeds": 3}, weights | {"class_embedding.weight": rows}
        ),
        None,
    )
    with np.load(networks / "diffusers_ddpm_cifar_like.npz") as file:
        x, t = file["x"][:3].transpose(0, 2, 3, 1), file["t"][:3]
    got = run(labelled, x, t, cond=jnp.array([1, 1, 3]))
    shifted = saved(
        tmp_path / "shifted", config, weights | {"time_embedding.linear_2.bias": bias + rows[1]}
    )
    assert relative_errors(got[:2], run(FORMATS["diffusers"](shifted, None), x, t)[:2]).max() < 1e-5
    assert np.isnan(got[2]).all()


def test_a_network_with_labels_is_sampled_by_label(tmp_path):
    """Every class in turn: without labels the samples would be NaN."""
    one = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "norm_num_groups": 2,
    }
    one |= {
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "add_attention": False,
        "num_class_embeds": 10,
    }
    settings = {k: v for k, v in network(one).items() if k not in ("name", "shape")}
    params = models.split(models.UNet((8, 8, 1), **settings, rngs=nnx.Rngs(0))).params
    params["conditioning"]["label"]["embedding"] = (
        params["conditioning"]["label"]["embedding"].at[-1].set(jnp.nan)
    )
    config, weights = to_diffusers({"name": "UNet", **settings}, (8, 8, 1), params)
    convert(saved(tmp_path, config, weights), "diffusers", tmp_path / "run")

    loaded = experiments.load(tmp_path / "run")
    config = loaded.config.copy_and_resolve_references().unlock()
    config.sampling.update({"number": 12, "batch_size": 12})
    config.samplers.best.nfe = 2
    sample(with_settings(loaded, config, ("samplers", "sampling")), tmp_path / "run")
    with np.load(tmp_path / "run" / "samples" / "best" / "samples.npz") as file:
        np.testing.assert_array_equal(file["label"], np.arange(12) % 10)


FINE = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "norm_eps": 1e-6,
}
FINE |= {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
SKIP = {
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
}
RESNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"down_block_types": ("KDownBlock2D", "DownBlock2D")}, "down_block_types"),
        ({"down_block_types": ("SkipDownBlock2D", "DownBlock2D")}, "down_block_types"),
        ({"time_embedding_type": "learned"}, "time_embedding_type = 'learned'"),
        (
            {"class_embed_type": "timestep"},
            "class_embed_type = 'timestep' of a UNet2DModel takes numbers",
        ),
        ({"class_embed_type": "identity", "num_class_embeds": 10}, "class_embed_type = 'identity'"),
        ({"num_class_embeds": 0}, "num_class_embeds = 0"),
        ({"num_class_embeds": 10, "_no_label": 3}, "_no_label = 3"),
        ({"num_class_embeds": 1, "_no_label": 0}, "_no_label = 0"),
        ({"out_channels": 6}, "out_channels = 6"),
        ({"sample_size": None}, "sample_size = None"),
        ({"act_fn": "relu"}, "act_fn = 'relu'"),
        ({"mid_block_type": None}, "mid_block_type = None"),
        ({"resnet_time_scale_shift": "scale_shift"}, "middle attention is not normalised"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups is 4"),
    ],
)
def test_a_network_of_diffusers_that_is_none_of_ours_is_refused_with_the_reason(change, reason):
    network(FINE)
    with pytest.raises(RunError, match=reason):
        network(FINE | change)


def test_the_schedule_beside_a_network_is_used():
    sections = process(
        FINE, {"beta_start": 2e-4, "beta_end": 0.01, "prediction_type": "v_prediction"}
    )
    assert (
        sections["sde"] == {"name": "VP", "beta_min": 0.2, "beta_max": 10.0}
        and sections["denoiser"]["prediction"] == "v"
    )
    fourier = FINE | {"time_embedding_type": "fourier", "center_input_sample": True}
    assert process(fourier, {"sigma_max": 380.0})["sde"] == {
        "name": "VE",
        "sigma_min": 0.02,
        "sigma_max": 760.0,
    }
    for wrong in ({"beta_schedule": "squaredcos_cap_v2"}, {"num_train_timesteps": 50}):
        with pytest.raises(RunError, match="schedule"):
            process(FINE, wrong)


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float16([1.5])}
    write_safetensors(path, arrays)
    jax.tree.map(np.testing.assert_array_equal, read_safetensors(path), arrays)
    whole = path.read_bytes()

    def file(*places, dtype="F32", shape=(1,)):
        entries = {
            name: {"dtype": dtype, "shape": shape, "data_offsets": place}
            for name, place in zip("ab", places, strict=False)
        }
        header = json.dumps(entries).encode()
        return struct.pack("<Q", len(header)) + header + bytes(max(end for _, end in places))

    path.write_bytes(file([0, 4], [4, 8]))
    assert set(read_safetensors(path)) == {"a", "b"}
    for damaged in (
        file([0, 4], [8, 12]),  # four bytes of nobody
        file([0, 4], [2, 6]),  # two bytes of both
        file([0, 4], shape=(2,)),
        whole[:-1],
        whole[:5],
        b"\xff" * 8 + whole[8:],
        whole + bytes(1),
    ):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="no intact safetensors file"):
            read_safetensors(path)


EXTRA = [
    SKIP | {"time_embedding_type": "fourier"},
    RESNET | {"attention_head_dim": 16, "num_class_embeds": 5},
]
EXTRA += [
    {"freq_shift": 1, "attention_head_dim": None},
    {"freq_shift": 1, "attention_head_dim": None, "num_class_embeds": 5},
]


@pytest.mark.parametrize("change", EXTRA)
def test_diffusers_itself_agrees_in_both_directions(change, tmp_path, run, relative_errors):
    """With diffusers and torch installed; random numbers in every weight."""
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = theirs.UNet2DModel(**FINE | change).eval()
    for p in net.parameters():
        p.data = torch.randn_like(p) / (max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 2)
    net.save_pretrained(tmp_path)
    converted = FORMATS["diffusers"](tmp_path / "diffusion_pytorch_model.safetensors", None)
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    t = np.float32([0.5, 4.2, 40.0])
    labels = np.array([4, 0, 2]) if "num_class_embeds" in change else None

    def there(net):
        with torch.no_grad():
            return net(
                *(None if a is None else torch.from_numpy(a) for a in (x, t, labels))
            ).sample.numpy()

    want = there(net)
    assert (
        relative_errors(
            run(converted, x.transpose(0, 2, 3, 1), t, cond=labels), want.transpose(0, 2, 3, 1)
        ).max()
        < 1e-5
    )
    if "freq_shift" in change:
        ours = converted.ema
        if labels is not None:  # as if trained without labels too: the last label there
            ours["conditioning"]["label"]["embedding"][-1] = 1.0
        saved(tmp_path / "back", *to_diffusers(converted.config.net.to_dict(), (16, 16, 3), ours))
        back = theirs.UNet2DModel.from_pretrained(tmp_path / "back").eval()
        np.testing.assert_allclose(there(back), want, rtol=1e-4, atol=1e-5)
        if labels is not None:
            labels[1] = 5
            got = run(converted, x.transpose(0, 2, 3, 1), t, cond=labels)
            np.testing.assert_allclose(got.transpose(0, 3, 1, 2), there(back), rtol=1e-4, atol=1e-5)
