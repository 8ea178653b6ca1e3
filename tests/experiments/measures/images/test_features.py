"""The feature network: its files, its features, and the script that trains it."""

import sys

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

from experiments import train_features
from experiments.data import Digits, codec_of
from experiments.errors import RunError
from experiments.measures.images.extractor import open_extractor
from experiments.measures.images.feature_file import load_network, save_network
from experiments.measures.images.feature_network import (
    BATCH,
    FeatureNetwork,
    FeatureSettings,
    extract_features,
    new_network,
    parameter_count,
)

SMALL = FeatureSettings(shape=(8, 8, 1), num_classes=3, width=4, features=6)


@pytest.fixture(scope="module")
def network():
    return new_network(SMALL, 0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (BATCH + 5, 8, 8, 1))


@pytest.fixture
def saved(network, tmp_path):
    save_network(tmp_path / "features.npz", network, SMALL, {"data": "none"})
    return tmp_path / "features.npz"


def test_the_weights_in_float16_take_less_than_half_a_megabyte():
    for shape in ((28, 28, 1), (32, 32, 3)):
        settings = FeatureSettings(shape=shape, num_classes=10)
        network = nnx.eval_shape(lambda s=settings: FeatureNetwork(s, rngs=nnx.Rngs(0)))
        assert 2 * parameter_count(network) < 5e5


def test_features_do_not_depend_on_the_batch_and_agree_with_the_logits(network, images):
    result = extract_features(network, images)
    assert result.features.shape == (BATCH + 5, 6)
    few = extract_features(network, images[-3:])
    np.testing.assert_allclose(few.features, result.features[-3:], atol=1e-5)
    np.testing.assert_allclose(result.probabilities.sum(1), 1, atol=1e-5)
    logits = nnx.jit(lambda network, x: network(x))(network, images[-3:].astype(np.float32))
    np.testing.assert_allclose(few.probabilities, nnx.softmax(logits), atol=1e-5)
    hidden = nnx.softmax(network.dense_out(few.features))
    np.testing.assert_allclose(hidden, few.probabilities, atol=1e-5)  # the last hidden layer


def test_a_file_gives_the_network_back_with_its_weights_rounded(network, images, saved):
    loaded = load_network(saved)
    assert loaded.facts["data"] == "none"
    assert loaded.name.startswith("feature_network ")
    kernel = np.asarray(network.convs[1].kernel[...])
    np.testing.assert_array_equal(
        loaded.network.convs[1].kernel[...], kernel.astype(np.float16).astype(np.float32)
    )
    np.testing.assert_allclose(
        extract_features(loaded.network, images[:9]).features,
        extract_features(network, images[:9]).features,
        atol=2e-3,
    )


def test_other_weights_have_another_name(network, saved, tmp_path):
    other = new_network(SMALL, 1)
    save_network(tmp_path / "other.npz", other, SMALL, {"data": "none"})
    assert load_network(tmp_path / "other.npz").name != load_network(saved).name


def test_damaged_and_missing_files_are_refused(saved, tmp_path):
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files}
    changed = dict(arrays)
    changed["hidden.bias"] = changed["hidden.bias"] + np.float16(1)
    np.savez(saved, **changed)
    with pytest.raises(RunError, match="another hash than it says; train it anew"):
        load_network(saved)
    np.savez(saved, **{name: a for name, a in arrays.items() if name != "facts"})
    with pytest.raises(RunError, match="no feature network, or damaged"):
        load_network(saved)
    saved.write_bytes(saved.read_bytes()[:500])
    with pytest.raises(RunError, match="no feature network, or damaged"):
        load_network(saved)
    with pytest.raises(RunError, match="there is no"):
        load_network(tmp_path / "none.npz")


def test_what_does_not_fit_is_refused(network, images, saved):
    with pytest.raises(ValueError, match="got shape .*8, 4, 1"):
        extract_features(network, images[:, :, :4])
    with pytest.raises(ValueError, match="by `codec.expected`"):
        extract_features(network, images.astype(np.uint8))
    with pytest.raises(ValueError, match="two or more classes, got 0; take data with labels"):
        FeatureNetwork(SMALL._replace(num_classes=0), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="8 x 8 pixels or more, got shape"):
        FeatureNetwork(SMALL._replace(shape=(4, 8, 1)), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="width 12"):
        FeatureNetwork(SMALL._replace(width=12), rngs=nnx.Rngs(0))
    huge = new_network(SMALL, 0)
    huge.hidden.bias[...] = huge.hidden.bias[...] + 1e6
    with pytest.raises(ValueError, match="hidden.bias are not finite in float16"):
        save_network(saved, huge, SMALL, {})


def test_training_moves_each_image_by_whole_pixels_of_its_own():
    x = np.random.default_rng(0).standard_normal((64, 20, 20, 1)).astype(np.float32)
    moved = np.asarray(train_features.moved(jax.random.key(0), x))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    seen = set()
    for image, source in zip(moved, padded, strict=True):
        places = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(image, source[i : i + 20, j : j + 20])
        ]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) > 15


class SomeDigits(Digits):
    """Digits that need no folder of data sets."""

    def __init__(self):
        x, label = load_digits(return_X_y=True)
        x = x.astype(np.uint8).reshape(-1, 8, 8, 1)
        records = [{"image": i, "label": int(k)} for i, k in zip(x, label, strict=True)]
        self._records = {"train": records[:1300], "test": records[1500:]}


def test_the_script_trains_a_network_that_knows_digits(tmp_path, monkeypatch, capsys):
    """Sixty small steps know most digits of other writers; guessing knows a tenth."""
    monkeypatch.setitem(vars(train_features.data), "Digits", SomeDigits)
    monkeypatch.setattr(
        train_features, "FeatureSettings", lambda **facts: FeatureSettings(width=8, **facts)
    )
    out = tmp_path / "digits.npz"
    arguments = ["train_features", "--data=Digits", f"--out={out}", "--steps=60", "--lr=0.01"]
    monkeypatch.setattr(sys, "argv", arguments)
    train_features.main()
    assert "parameters" in capsys.readouterr().out
    saved = load_network(out)
    assert saved.facts["accuracy"] > 0.6
    assert train_features.accuracy(saved.network, SomeDigits(), "test") > 0.6


def test_the_script_takes_files_of_ones_own_and_writes_which(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 5, (80, 8, 8, 1), np.uint8), np.arange(80) % 3
    path, out = tmp_path / "images.npz", tmp_path / "features.npz"
    np.savez(path, x=images, y=labels)
    arguments = ["--data=Files", f"--config.data.path={path}", "--config.data.levels=5"]
    arguments += ["--held_out=validation", f"--out={out}", "--steps=2", "--batch_size=8"]
    monkeypatch.setattr(sys, "argv", ["train_features", *arguments])
    train_features.main()
    saved = load_network(out)
    assert saved.facts["data"] == "Files"
    assert saved.facts["data_settings"] == {"path": str(path), "levels": 5}
    extractor = open_extractor(str(out), (8, 8, 1), codec_of(5))
    section = {"name": "Files", "path": str(path), "levels": 5, "image_size": None}
    assert extractor is not None and extractor.knows_classes(ConfigDict(section))
    assert not extractor.knows_classes(ConfigDict(section | {"path": "elsewhere"}))
    assert extractor.extract(images).probabilities.shape == (80, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data=Nothing", "--out=a.npz"], "has no DataSet 'Nothing'; choose one of Digits"),
        (["--data=Digits", "--out=a.zip"], "name a file that ends in .npz"),
        (["--data=Files", "--out=a.npz"], "error: config.data: Files needs a value for path"),
        (["--data=Files", "--config.data.size=3", "--out=a.npz"], "Files has no setting size; it"),
        (["--data=Digits", "--config.seed=3", "--out=a.npz"], "unrecognized arguments: --config.s"),
        (["--data=Digits", "more", "--out=a.npz"], "unrecognized arguments: more"),
    ],
)
def test_what_the_script_cannot_do_ends_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_features", *arguments])
    with pytest.raises(SystemExit):
        train_features.main()
    assert message in capsys.readouterr().err
