"""Settings that were renamed: runs saved under the old names open, and old names are answered."""

import inspect
import json

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

import models
from experiments.command.overrides import apply
from experiments.command.parse import Override
from experiments.configs.common import base_config
from experiments.convert.formats import Converted
from experiments.convert.run import write_run
from experiments.errors import RunError
from experiments.run.build import build
from experiments.run.loading import load
from experiments.run.objects import make
from experiments.storage.checkpoint_folder import MANIFEST, MARK, folder_of, hash_of
from experiments.storage.renamed import NETWORKS, with_present_names
from models.unet_settings import Groups

SMALL = {"name": "UNet", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]}
BEFORE = SMALL | {
    "embedding": "fourier",
    "fir": True,
    "fir_kernel": [1, 2, 1],
    "progressive_input": "residual",
    "attn_up": "every",
    "eps": 1e-5,
    "skip_rescale": False,
}
NOW = SMALL | {
    "embedding": "fourier",
    "resampling": {"fir": True, "kernel": [1, 2, 1]},
    "pyramids": {"input": "residual"},
    "attention": {"up": "every"},
    "normalisation": {"eps": 1e-5},
    "residual": {"skip_rescale": False},
}
every_name = pytest.mark.parametrize("before, now", NETWORKS["UNet"].items())


@every_name
def test_the_new_name_of_a_setting_exists_and_the_old_one_does_not(before, now):
    group, _, name = now.partition(".")
    assert name in inspect.signature(Groups.__annotations__[group]).parameters
    assert before not in inspect.signature(models.UNet.__init__).parameters


def test_every_setting_of_a_group_had_one_old_name():
    kinds = Groups.__annotations__
    settings = [f"{g}.{n}" for g, kind in kinds.items() for n in inspect.signature(kind).parameters]
    assert sorted(NETWORKS["UNet"].values()) == sorted(settings)


def test_a_saved_network_has_the_present_names():
    assert with_present_names(BEFORE) == NOW
    assert with_present_names(NOW) == NOW
    assert with_present_names(SMALL | {"eps": 1, "normalisation": {"eps": 2}}) == SMALL | {
        "normalisation": {"eps": 2}
    }
    for other in ({"name": "MPUNet", "head_features": 8}, {"name": [], "fir": True}, {}, 3):
        assert with_present_names(other) == other
    damaged = {"name": "UNet", "resampling": 3, "fir": True}
    assert with_present_names(damaged)["resampling"] == 3


def config_of(net):
    config = base_config()
    config.data = {"name": "Digits"}
    config.net = net
    config.facts = {"shape": (8, 8, 1), "levels": 17, "num_classes": 0, "sd": 0.5}
    return config


def test_a_run_directory_of_before_opens_with_its_weights(tmp_path):
    run = build(config_of(NOW), abstract=True)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.standard_normal(p.shape, np.float32), run.split.params)
    write_run(Converted(run.config, params, params, 7), tmp_path)
    make_old(tmp_path / "config.json", lambda saved: saved)
    folder = folder_of(tmp_path, 7)
    make_old(folder / MARK, lambda saved: saved["config"])
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest[MARK] = hash_of(folder / MARK)
    (folder / MANIFEST).write_text(json.dumps(manifest))

    loaded = load(tmp_path)
    assert json.loads(loaded.config.net.to_json()) == NOW
    jax.tree.map(np.testing.assert_array_equal, loaded.denoiser.net.params, params)


def make_old(file, part):
    saved = json.loads(file.read_text())
    assert part(saved)["net"] == NOW
    part(saved)["net"] = BEFORE
    file.write_text(json.dumps(saved))


@every_name
def test_an_old_name_is_answered_with_the_new_one(before, now):
    config = config_of(SMALL).unlock()
    with pytest.raises(RunError, match=f"{before}=1: this setting is config.net.{now} now; write"):
        apply(config, (Override(f"net.{before}", "1"),))
    with pytest.raises(ValueError, match=f"UNet has no setting {before}; {before} is {now} now"):
        make(models, ConfigDict(SMALL | {before: 1}), nnx.Module, shape=(8, 8, 1))


def test_a_command_line_sets_a_setting_of_a_group():
    config = config_of(SMALL).unlock()
    flags = {"resampling.fir": None, "resampling.kernel": "1,2,1", "attention.up": "every"}
    apply(config, tuple(Override(f"net.{path}", text) for path, text in flags.items()))
    assert config.net.resampling.to_dict() == {"fir": True, "kernel": (1, 2, 1)}
    assert config.net.attention.up == "every"
    assert len(jax.tree.leaves(build(config, abstract=True).split.params)) > 10


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"resampling": {"fir": 3}}, "UNet needs True or False as resampling.fir, got 3"),
        ({"resampling": {"kernel": "a"}}, "UNet needs a tuple of numbers as resampling.kernel"),
        ({"resampling": {"fri": True}}, "no setting resampling.fri; did you mean resampling.fir"),
        ({"resampling": True}, "needs resampling as ResamplingSettings or as a dictionary"),
        ({"attention": "cudnn"}, "UNet needs a section of settings as attention, got 'cudnn'"),
        ({"normalisation": {"eps": float("inf")}}, "a finite number as normalisation.eps"),
    ],
)
def test_a_wrong_setting_of_a_group_is_named_with_its_place(settings, message):
    with pytest.raises(ValueError, match=f"config.net: .*{message}"):
        build(config_of(SMALL | settings), abstract=True)
