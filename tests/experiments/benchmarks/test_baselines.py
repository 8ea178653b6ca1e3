"""The baselines are densities: causal, normalised, and right where the answer is known."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks import baselines
from experiments.benchmarks.causal_model import (
    CausalModel,
    CausalSettings,
    bits_per_dim,
    inputs_of,
    measure_causal,
    train_causal,
)
from experiments.data.base import DataSet, Source

SETTINGS = CausalSettings(shape=(5, 6, 2), levels=4, reach=2, width=8, layers=1)


class Noise(DataSet):
    """Images of independent, uniform grey levels; or of the level of their first pixel."""

    shape, num_classes, splits = (3, 4, 1), 0, ("train", "validation", "test")

    def __init__(self, levels, constant=False):
        self.levels = levels
        self.x = {}
        for seed, split in enumerate(self.splits):
            x = np.random.default_rng(seed).integers(0, levels or 2, (1500, *self.shape), np.uint8)
            self.x[split] = np.broadcast_to(x[:, :1, :1], x.shape) if constant else x

    def source(self, split):
        return Source(len(self.x[split]), lambda i: (self.x[split][i], 0))


def test_a_value_depends_on_those_before_it_alone():
    model = CausalModel(SETTINGS, rngs=nnx.Rngs(0))
    levels = jax.random.randint(jax.random.key(0), SETTINGS.shape, 0, 4)

    def logits(x):
        return model(x[None])[0].sum(-1)

    jacobian = jax.jacobian(lambda x: logits(x))(levels.astype(jnp.float32))
    size = levels.size
    jacobian = np.asarray(jacobian).reshape(size, size)
    assert not np.triu(jacobian).any()  # not on itself either
    assert np.abs(np.tril(jacobian, -1)).sum(1)[1:].all()  # on one before, from the second on


def test_it_reaches_as_far_as_it_says():
    model = CausalModel(SETTINGS, rngs=nnx.Rngs(0))
    levels = jnp.zeros((1, *SETTINGS.shape), jnp.int32)
    changed = levels.at[0, 0, 0].set(3)
    difference = np.abs(model(changed) - model(levels))[0].sum((-1, -2)) > 0
    expected = np.zeros((5, 6), bool)
    expected[:3, :3] = True  # two rows down, two columns to the right
    np.testing.assert_array_equal(difference, expected)


def test_a_channel_sees_the_earlier_channels_of_its_own_pixel():
    x = jax.random.uniform(jax.random.key(0), (1, 2, 2, 3))
    inputs = inputs_of(x, reach=1)
    own = inputs[..., 4 * 3 : 5 * 3]  # behind four neighbours of three channels
    for channel in range(3):
        np.testing.assert_array_equal(own[:, :, :, channel, :channel], x[..., :channel])
        assert not np.asarray(own[:, :, :, channel, channel:]).any()


def test_what_is_outside_looks_like_no_pixel_and_no_two_values_look_alike():
    """In a constant image nothing but place and channel tells values apart."""
    inputs = np.asarray(inputs_of(jnp.zeros((1, 7, 8, 2)), reach=2))[0]
    before = 2 * (2 * 5 + 2)
    assert (np.abs(inputs[0, 0, :, :before]) > 1.5).all()
    assert not inputs[2:, 2:-2, :, :before].any()
    assert len(np.unique(inputs.reshape(-1, inputs.shape[-1]), axis=0)) == 7 * 8 * 2


def untrained(dataset):
    settings = CausalSettings(dataset.shape, dataset.levels, reach=1, width=8, layers=1)
    return CausalModel(settings, rngs=nnx.Rngs(0))


def test_bits_are_those_of_the_softmax():
    """By hand for an untrained model, and log2 of the levels for one that knows nothing."""
    dataset = Noise(8)
    model = untrained(dataset)
    x = dataset.x["test"][:5].astype(np.int32)
    logits = np.asarray(model(x), np.float64)
    chosen = np.take_along_axis(logits, x[..., None], -1)[..., 0]
    nats = np.log(np.exp(logits).sum(-1)) - chosen
    bits = bits_per_dim(model, x)
    np.testing.assert_allclose(bits, nats.mean((1, 2, 3)) / np.log(2), rtol=1e-5)
    for parameter in (model.dense_out.kernel, model.dense_out.bias):
        parameter[...] = jnp.zeros_like(parameter[...])
    np.testing.assert_allclose(bits_per_dim(model, x), 3, rtol=1e-6)


def test_a_split_is_measured_image_by_image():
    dataset = Noise(8)
    dataset.x["test"] = dataset.x["test"][:21]  # a batch and five more
    model = untrained(dataset)
    expected = bits_per_dim(model, dataset.x["test"].astype(np.int32))
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(measure_causal(model, dataset, "test"), expected, rtol=1e-5)


def test_training_reads_images_of_the_whole_split():
    dataset = Noise(8)
    rows = []
    whole = dataset.source

    def source(split):
        given = whole(split)

        def read(row):
            rows.append((split, row))
            return given.read(row)

        return Source(len(given), read)

    dataset.source = source
    train_causal(dataset, "validation", 4)
    assert {split for split, _ in rows} == {"validation"}
    indices = [row for _, row in rows]
    assert len(indices) == 64 and len(set(indices)) > 50
    assert min(indices) < 300 and max(indices) > 1200  # both by chance with 1 in a million


def test_noise_costs_the_logarithm_of_its_levels_and_a_known_pixel_nothing():
    uniform = Noise(8)
    bits = measure_causal(train_causal(uniform, "train", 60), uniform, "test")
    assert bits.shape == (1500,) and 2.98 < bits.mean() < 3.1
    constant = Noise(4, constant=True)
    bits = measure_causal(train_causal(constant, "train", 300), constant, "test")
    assert 2 / 12 - 0.01 < bits.mean() < 2 / 12 + 0.1  # the first of twelve pixels is unknown


def test_a_gaussian_of_dequantised_noise_costs_its_entropy():
    splits = ("train", "validation", "test")
    result = baselines.mixture_bits(Noise(64), splits, limit=1500)
    entropy = 0.5 * np.log2(2 * np.pi * np.e * 64**2 / 12)
    assert result["components"] == 1
    assert result["bits_per_dim"] == pytest.approx(entropy, abs=0.03)
    assert result["images"] == 1500 and 0 < result["std_error"] < 0.01


def test_the_mixture_sees_the_first_images_dequantised():
    """The fraction has the mean 1/2 and the variance 1/12: five standard errors of 8400 values."""
    dataset = Noise(4)
    x = baselines.grey_levels(dataset, "train", 700, seed=0)
    assert x.shape == (700, 12) and x.dtype == np.float64
    levels = np.floor(x)
    np.testing.assert_array_equal(levels, dataset.x["train"][:700].reshape(700, 12))
    fraction = x - levels
    assert abs(fraction.mean() - 1 / 2) < 0.016
    assert abs(fraction.var() - 1 / 12) < 0.0041
    assert np.abs(x - baselines.grey_levels(dataset, "train", 700, seed=1)).max() > 0.5
    assert len(baselines.grey_levels(dataset, "train", 10_000, seed=0)) == 1500


def test_the_mixture_is_fitted_chosen_and_measured_on_one_split_each(monkeypatch):
    """One Gaussian: that of the first split; the second chooses; the third, constant, is measured.

    A uniform law of 64 levels has the variance 64^2 / 12. Level 8, dequantised, lies 23.5 below its
    middle, with a variance of 1 / 12.
    """
    dataset = Noise(64)
    dataset.x["validation"] = dataset.x["validation"] // 2
    dataset.x["test"] = np.full_like(dataset.x["test"], 8)
    monkeypatch.setattr(baselines, "COMPONENTS", (1,))
    result = baselines.mixture_bits(dataset, ("train", "validation", "test"), limit=1400)
    variance = 64**2 / 12
    log_scale = 0.5 * np.log2(2 * np.pi * variance)
    distance = 23.5**2 + 1 / 12
    expected = log_scale + distance / (2 * variance * np.log(2))
    assert result["bits_per_dim"] == pytest.approx(expected, abs=0.03)
    # the levels 0, 0, 1, 1, ... 31, 31: 16.0 from the middle, on average over the dequantised
    distance = 16**2 + 32**2 / 12
    chosen = log_scale + distance / (2 * variance * np.log(2))
    assert result["validation"][1] == pytest.approx(chosen, abs=0.03)
    assert result["images"] == 1400


def test_the_autoregressive_model_learns_from_one_split_and_is_measured_on_another(monkeypatch):
    dataset = Noise(8)

    def measured(model, data, split):
        assert model == (dataset, "a", 7) and data is dataset and split == "c"
        return np.array([1.0, 2.0, 3.0, 6.0])

    monkeypatch.setattr(baselines, "train_causal", lambda *arguments: arguments)
    monkeypatch.setattr(baselines, "measure_causal", measured)
    result = baselines.causal_bits(dataset, ("a", "b", "c"), steps=7)
    error = np.sqrt((4 + 1 + 0 + 9) / 3 / 4)  # of the mean of four values
    assert result == {
        "bits_per_dim": 3.0,
        "std_error": pytest.approx(error),
        "images": 4,
        "steps": 7,
    }


def test_vectors_have_no_pixels_before_them():
    dataset = Noise(None)
    with pytest.raises(ValueError, match="need images of grey levels, got None levels"):
        train_causal(dataset, "train", 1)


def test_the_script_measures_files_of_ones_own(tmp_path, monkeypatch):
    """Both models on uniform noise of four levels, 2 bits; the mixture pays for its shape."""
    x = np.random.default_rng(0).integers(0, 4, (400, 3, 4, 1), np.uint8)
    np.save(tmp_path / "noise.npy", x)
    out = tmp_path / "baselines.json"
    arguments = ["--data=Files", f"--config.data.path={tmp_path / 'noise.npy'}"]
    arguments += ["--config.data.levels=4", "--config.data.validation=0.3", f"--out={out}"]
    arguments += ["--splits", "train", "validation", "validation", "--steps=30", "--limit=200"]
    monkeypatch.setattr(sys, "argv", ["baselines", *arguments])
    baselines.main()
    report = json.loads(out.read_text())
    assert report["data"] == "Files" and report["data_settings"]["levels"] == 4
    held_out = report["autoregressive"]["images"]
    assert 80 < held_out < 160 and report["mixture"]["images"] == held_out
    assert report["autoregressive"]["steps"] == 30
    assert 1.95 < report["autoregressive"]["bits_per_dim"] < 2.2
    # a Gaussian of a uniform law costs log2(sqrt(2 pi e / 12)) = 0.25 bits more than that law
    assert 2.2 < report["mixture"]["bits_per_dim"] < 2.5
    assert set(report["mixture"]["validation"]) == {"1", "10", "20"}


def test_data_that_cannot_be_opened_end_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["baselines", "--data=Files", f"--out={tmp_path / 'a.json'}"])
    with pytest.raises(SystemExit):
        baselines.main()
    assert capsys.readouterr().err == "error: config.data: Files needs a value for path\n"
