"""Objectives and processes by their names in a configuration: they train, resume and load."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.modes.train import train
from experiments.run.adaptive import WEIGHTS
from experiments.run.build import UNCERTAINTY
from experiments.run.loading import load

WAYS = {
    "uncertainty": {
        "objective": {"uncertainty": True, "weighting": "sigmoid", "times": {"name": "LogUniform"}}
    },
    "sliced": {"objective": {"name": "sliced", "weighting": "noise"}},
    "flow matching": {
        "sde": {"name": "Rectified"},
        "denoiser": {"prediction": "velocity"},
        "objective": {
            "times": {"name": "Binned", "base": {"name": "Uniform"}, "weights": [1.0, 2.0, 1.0]}
        },
    },
    "ddpm": {
        "sde": {"name": "Discrete", "sde": {"name": "VP"}, "n": 100},
        "denoiser": {"prediction": "noise", "inputs": "label"},
        "objective": {"weighting": "noise", "times": {"name": "Levels"}},
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_a_named_objective_trains(way, tiny_config, tmp_path):
    config = tiny_config()
    for section, values in WAYS[way].items():
        if section == "sde":
            config.sde = values
        else:
            values = dict(values)
            if "times" in values:
                config[section].times = values.pop("times")
            config[section].update(values)
    config.train.update({"steps": 4, "log_every": 2, "held_out_every": 4})
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (
        all(np.isfinite(value) for line in lines for value in line.values())
        and "held_out/loss" in lines[-1]
    )
    config.train.steps = 6
    train(config, tmp_path)  # goes on from what it saved
    loaded = load(tmp_path)
    assert loaded.step == 6 and np.all(np.isfinite(loaded.denoiser(jnp.ones((3, 2)), 0.5).x0))
    assert (UNCERTAINTY in loaded.run.parameters()) == (way == "uncertainty")


def test_times_that_adapt_resume_bitwise_and_fall_where_the_loss_is(
    tiny_config, tmp_path, state_of
):
    config = tiny_config()
    config.objective.update({"adapt_every": 3, "adapt_bins": 4, "weighting": "likelihood"})
    config.train.update({"steps": 8, "checkpoint_every": 4, "held_out": ""})
    train(config, tmp_path / "whole")
    for steps in (2, 4, 8):  # stopped before the first measurement, and between two
        config.train.steps = steps
        train(config, tmp_path / "parts")
        if steps == 2:
            assert state_of(tmp_path / "parts")[1][WEIGHTS] == [1.0] * 4
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole[0], parts[0])
    assert whole[1] == parts[1]
    weights = np.array(whole[1][WEIGHTS])
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)
    assert weights[0] > 2 * weights[1:].max()  # the likelihood weighting is largest near t_min
    earlier = state_of(tmp_path / "whole", 4)[1][WEIGHTS]
    assert np.abs(weights - earlier).max() > 1e-3  # measured anew at step 6
