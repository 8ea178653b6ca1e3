"""Objectives and processes by their names in a configuration: they train, resume and load."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build import UNCERTAINTY, load
from experiments.train import train

WAYS = {
    "uncertainty": {"objective": {"uncertainty": True, "weighting": "sigmoid", "times": {"name": "LogUniform"}}},
    "sliced": {"objective": {"name": "sliced", "weighting": "noise"}},
    "flow matching": {
        "sde": {"name": "Rectified"},
        "denoiser": {"prediction": "velocity"},
        "objective": {"times": {"name": "Binned", "base": {"name": "Uniform"}, "weights": [1.0, 2.0, 1.0]}},
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
    assert all(np.isfinite(value) for line in lines for value in line.values()) and "held_out/loss" in lines[-1]
    config.train.steps = 6
    train(config, tmp_path)  # goes on from what it saved
    loaded = load(tmp_path)
    assert loaded.step == 6 and np.all(np.isfinite(loaded.denoiser(jnp.ones((3, 2)), 0.5).x0))
    assert (UNCERTAINTY in loaded.run.parameters()) == (way == "uncertainty")
