"""The noise of measurements by `config.inverse.noise` and `std`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.common import base_config
from experiments.errors import RunError
from experiments.run.noise import noise_of, read_noise

SHAPE = (2, 2)
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(4, 4))
COV = ROOT @ ROOT.T + 0.1 * np.eye(4)


def section(path, std=0.3):
    config = base_config().inverse
    config.std = std
    config.noise = str(path)
    return config


def saved(tmp_path, array):
    path = tmp_path / "noise.npy"
    np.save(path, array)
    return path


def test_without_a_file_the_noise_has_one_size():
    noise = read_noise(section(""), SHAPE)
    assert noise == noise_of(0.3, SHAPE) and noise.cov is None and noise.white_std == 0.3
    y = RNG.normal(size=(3, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(noise.white(y), y)
    assert noise.whitened(abs) is abs


@pytest.mark.parametrize("flat", [False, True])
def test_a_file_may_hold_a_standard_deviation_of_each_value(tmp_path, flat):
    stds = np.array([[0.1, 0.2], [0.3, 0.4]])
    noise = read_noise(section(saved(tmp_path, stds.reshape(-1) if flat else stds)), SHAPE)
    y = RNG.normal(size=(3, *SHAPE))
    np.testing.assert_allclose(noise.white(y), y / stds, rtol=1e-5)
    np.testing.assert_allclose(
        noise.whitened(lambda x: x)(jnp.asarray(y[0])), y[0] / stds, rtol=1e-5
    )
    assert noise.std == 0.4 and noise.white_std == 1.0


def test_a_file_may_hold_a_covariance_and_its_noise_is_drawn(tmp_path):
    """The covariance of 20,000 draws is off by 0.01 of the product of two deviations; 6 of them."""
    noise = read_noise(section(saved(tmp_path, COV)), SHAPE)
    zeros = jnp.zeros((20_000, *SHAPE))
    drawn = np.asarray(noise.draw(jax.random.key(0), zeros + 2.0), float).reshape(-1, 4)
    sizes = np.sqrt(np.diag(COV))
    error = (np.cov(drawn.T) - COV) / np.outer(sizes, sizes)
    assert np.abs(error).max() < 0.06 and np.abs(drawn.mean(0) - 2.0).max() < 0.06 * sizes.max()
    white = noise.white(drawn.reshape(-1, *SHAPE) - 2.0).reshape(-1, 4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=0.06)
    np.testing.assert_allclose(noise.std, sizes.max())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), r"one of each measured value, of shape \(2, 2\).*got shape \(3,\)"),
        (np.array([0.1, 0.2, 0.0, 0.4]), "need std > 0"),
        (COV * [1.0, 2.0, 1.0, 1.0], "not symmetric"),
        (COV - 9 * np.eye(4), "positive definite"),
        (np.full((4, 4), np.nan), "not symmetric, or not finite"),
        (np.array(["a"]), "holds <U1, expected numbers"),
    ],
)
def test_what_is_no_noise_is_refused(tmp_path, array, message):
    with pytest.raises(RunError, match=message):
        read_noise(section(saved(tmp_path, array)), SHAPE)
    with pytest.raises(RunError, match="config.inverse.noise=.*no such file"):
        read_noise(section(tmp_path / "none.npy"), SHAPE)
