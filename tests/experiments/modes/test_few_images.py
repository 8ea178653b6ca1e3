"""Runs on few images: augmented, with classes drawn evenly."""

import jax
import numpy as np
import pytest

from experiments.configs.files import get_config
from experiments.errors import RunError
from experiments.modes.sample import draw
from experiments.modes.train import train
from experiments.run.loading import load


@pytest.fixture(scope="module")
def config_of(tmp_path_factory):
    """Return the function (**train) -> the configuration of a small run on 30 images."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 16, (30, 4, 4, 1)).astype(np.uint8)
    np.savez(path, x=images, y=np.arange(30) // 25)  # 25 of one class and 5 of the other

    def config_of(**settings):
        config = get_config("vp,cond")
        config.data.update({"path": str(path), "levels": 16})
        config.net = {"name": "UNet", "nf": 8, "ch_mult": (1,), "num_res_blocks": 1}
        config.optim.warmup = 2
        config.devices = 1
        config.train.update({"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 2})
        config.train.update({"held_out": "", "augment": 0.5, "balance": True, **settings})
        return config

    return config_of


@pytest.fixture(scope="module")
def never_stopped(config_of, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("never") / "run"
    train(config_of(), workdir)
    return workdir


def test_a_run_that_is_augmented_and_balanced_resumes_bitwise(
    config_of, never_stopped, state_of, tmp_path
):
    train(config_of(steps=2), tmp_path / "run")
    train(config_of(), tmp_path / "run")
    state, position = state_of(tmp_path / "run")
    expected, expected_position = state_of(never_stopped)
    assert position == expected_position
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_its_map_is_trained_and_its_samples_are_drawn_like_any_others(never_stopped):
    loaded = load(never_stopped)
    kernel = loaded.denoiser.net.params["conditioning"]["augmentation"]["kernel"]
    assert kernel.shape[0] == 9
    x, _ = draw(loaded.run, loaded.denoiser, loaded.config.samplers.ddim, np.arange(4))
    assert np.isfinite(x).all()


@pytest.mark.parametrize("change", [{"augment": 0.0}, {"augment": 0.2}, {"balance": False}])
def test_going_on_otherwise_is_refused(config_of, never_stopped, change):
    (name,) = change
    with pytest.raises(RunError, match=rf"another configuration \(config.train.{name} was"):
        train(config_of(steps=5, **change), never_stopped)
