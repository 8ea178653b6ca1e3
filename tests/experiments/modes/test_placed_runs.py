"""Whole runs with their arrays in different places: the same losses, the same samples, and a run
that is trained in one way, goes on in another, and is sampled in a third.
"""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.errors import RunError
from experiments.modes.likelihood import measure_likelihood
from experiments.modes.sample import draw
from experiments.modes.train import train
from experiments.run.build import make_dataset
from experiments.run.loading import load
from experiments.storage.checkpoint_folder import complete_steps

# devices, devices that share the weights, and whether the update is split
ONE, DATA, FSDP, BOTH, SPLIT = (
    (1, 1, False),
    (4, 1, False),
    (4, 4, False),
    (4, 2, True),
    (4, 1, True),
)


def config_of(tiny_config, way, steps=20):
    """Return a configuration with weights that are large enough to be split."""
    config = tiny_config()
    config.net.width = 48
    config.optim.lr = 1e-3
    config.train.steps = steps
    return placed(config, way)


def placed(config, way):
    devices, fsdp, split_update = way
    config = config.copy_and_resolve_references().unlock()
    config.devices = devices
    config.placement.update({"fsdp": fsdp, "split_update": split_update})
    return config


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: (line["train/loss"], line["train/grad_norm"]) for line in lines}


@pytest.fixture(scope="module")
def alone(tiny_config, tmp_path_factory):
    """Return the directory of a run that was trained on one device."""
    workdir = tmp_path_factory.mktemp("one")
    train(config_of(tiny_config, ONE), workdir)
    return workdir


@pytest.mark.parametrize("way", [DATA, FSDP, BOTH, SPLIT], ids=["data", "fsdp", "both", "split"])
def test_the_losses_are_those_of_one_device(way, alone, tiny_config, tmp_path):
    train(config_of(tiny_config, way), tmp_path)
    expected, found = losses(alone), losses(tmp_path)
    assert expected.keys() == found.keys() == {5, 10, 15, 20}
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=2e-4)


def test_a_run_goes_on_on_other_devices_and_is_used_on_a_third_number(alone, tiny_config, tmp_path):
    train(config_of(tiny_config, BOTH, steps=10), tmp_path)
    train(config_of(tiny_config, SPLIT, steps=15), tmp_path)
    train(config_of(tiny_config, ONE), tmp_path)
    assert complete_steps(tmp_path) == [15, 20]
    expected, found = losses(alone), losses(tmp_path)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=2e-4)
    reference = load(alone)
    for way in (ONE, FSDP):
        loaded = load(tmp_path)
        run = loaded.run._replace(config=placed(loaded.run.config, way))
        x = draw(run, loaded.denoiser, run.config.samplers.ddim, np.arange(8)).x
        wanted = draw(reference.run, reference.denoiser, run.config.samplers.ddim, np.arange(8)).x
        np.testing.assert_allclose(x, wanted, atol=2e-3)


def test_a_run_opens_where_there_are_fewer_devices_than_shared_its_weights(alone, tmp_path):
    workdir = shutil.copytree(alone, tmp_path / "run")
    saved = json.loads((workdir / "config.json").read_text())
    saved["placement"]["fsdp"] = 8
    (workdir / "config.json").write_text(json.dumps(saved))
    for a, b in zip(*(jax.tree.leaves(load(w).denoiser) for w in (workdir, alone)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_likelihoods_do_not_depend_on_who_holds_the_weights(alone):
    loaded = load(alone)
    bits = []
    for way in (ONE, FSDP):
        config = placed(loaded.config, way)
        config.eval.update({"batch_size": 16, "examples": 16})
        run = loaded.run._replace(config=config)
        result = measure_likelihood(loaded._replace(run=run, config=config), make_dataset(config))
        bits.append(result["bits_per_dim"])
    np.testing.assert_allclose(bits[1], bits[0], rtol=1e-4)


def test_resuming_in_the_same_way_is_bitwise(tiny_config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(tiny_config, FSDP), whole)
    for steps in (10, 20):
        train(config_of(tiny_config, FSDP, steps), parts)
    for a, b in zip(*(jax.tree.leaves(load(w).denoiser) for w in (whole, parts)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_wrong_rule_is_refused_before_anything_is_written(tiny_config, tmp_path):
    config = config_of(tiny_config, FSDP)
    config.placement.rules = (".=9",)
    with pytest.raises((ValueError, RunError), match="along axis 9 into 4 parts"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
