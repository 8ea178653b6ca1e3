"""Features of real images are measured block by block, kept, and never taken for others."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import data
from experiments.data.base import DataSet, Source
from experiments.errors import RunError
from experiments.measures.images import memorisation, nearest_training, real_features
from experiments.measures.images.extractor import PACKAGED, Extractor, open_extractor
from experiments.measures.images.feature_file import load_network
from experiments.measures.images.feature_network import ImageFeatures
from experiments.measures.images.memorisation import draw_nearest_in_split, nearest_in_split


class Images(DataSet):
    """Random images of 8 x 8 grey levels in three classes."""

    shape, levels, num_classes, splits = (8, 8, 1), 256, 3, ("train", "test")

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.x = {
            "train": rng.integers(0, 256, (50, 8, 8, 1), np.uint8),
            "test": rng.integers(0, 256, (30, 8, 8, 1), np.uint8),
        }

    def source(self, split):
        return Source(len(self.x[split]), lambda i: (self.x[split][i], i % 3))


class Means:
    """The means of rows, and how many images were looked at."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return ImageFeatures(images.mean((2, 3)).astype(np.float32), None)


def measured(folder, extract, name="means", dataset=None, file=""):
    extractor = Extractor(name, {"resize": None}, extract)
    dataset = dataset or Images()
    return real_features.measure_real(extractor, dataset, ("train", "test"), folder, file)


def test_a_split_is_measured_in_blocks_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(data.streaming, "VALUES", 700)
    monkeypatch.setattr(data.blocks, "__defaults__", (None, 700))  # ten images
    extract = Means()
    real, labels = measured(tmp_path, extract)
    assert extract.seen == 80
    whole = Images().x["train"].mean((2, 3))
    np.testing.assert_allclose(real.training, whole, rtol=1e-6)
    np.testing.assert_allclose(real.moments.covariance, np.cov(whole.T), rtol=1e-5)
    np.testing.assert_array_equal(labels, np.arange(30) % 3)
    again, _ = measured(tmp_path, extract)
    assert extract.seen == 80 + 30  # the training images come from the file
    np.testing.assert_array_equal(again.training, real.training)
    np.testing.assert_allclose(again.moments.scatter, real.moments.scatter, rtol=1e-12)


def test_another_network_or_other_data_are_measured_anew(tmp_path):
    extract = Means()
    measured(tmp_path, extract)
    measured(tmp_path, extract, name="other means")
    measured(tmp_path, extract, dataset=Images(seed=1))
    assert extract.seen == 3 * 80 and len(list(tmp_path.iterdir())) == 3


def test_a_named_file_of_another_network_is_refused(tmp_path):
    file = str(tmp_path / "reference.npz")
    measured(tmp_path, Means(), file=file)
    measured(tmp_path, Means(), file=file)
    with pytest.raises(RunError, match="has features of 'means', expected those of 'other means'"):
        measured(tmp_path, Means(), name="other means", file=file)


def test_a_named_file_of_other_images_is_refused(tmp_path):
    """Other pixels in one image, another split, and images of which the file does not say."""
    file = str(tmp_path / "reference.npz")
    measured(tmp_path, Means(), file=file)
    before = (tmp_path / "reference.npz").read_bytes()
    one_pixel = Images()
    one_pixel.x["train"][17, 3, 4] ^= 1
    extractor = Extractor("means", {"resize": None}, Means())
    message = r"reference\.npz has features of 50 other images .* or name a new one"
    for dataset, splits in ((one_pixel, ("train", "test")), (Images(), ("test", "train"))):
        with pytest.raises(RunError, match=message):
            real_features.measure_real(extractor, dataset, splits, tmp_path, file)
    assert (tmp_path / "reference.npz").read_bytes() == before
    with np.load(file) as saved:
        silent = {name: saved[name] for name in saved.files if name != "images"}
    np.savez(file, **silent)
    real, _ = measured(tmp_path, Means(), dataset=Images(seed=1), file=file)
    np.testing.assert_array_equal(real.moments.mean, silent["mean"])


def test_of_many_images_some_features_are_kept_and_all_moments(tmp_path, monkeypatch):
    monkeypatch.setattr(real_features, "KEPT", 20)
    real, labels = measured(tmp_path, Means())
    assert len(real.training) == 20 and len(labels) == 20 and real.moments.count == 50


def test_the_nearest_images_of_a_split_are_those_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(memorisation, "BLOCK", 7 * 64)  # 50 = 7 x 7 + 1: the last block has one
    dataset = Images()
    samples = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 1), np.uint8)
    samples[4] = dataset.x["train"][49]
    found = nearest_in_split(samples, dataset, "train")
    whole = nearest_training(samples, dataset.x["train"])
    for part, expected in zip(found, whole, strict=True):
        np.testing.assert_array_equal(part, expected)
    assert found.copies == 1 and found.index[4] == 49
    shown = {}

    def draw(path, some, training, measurement, count):
        shown.update(some=some, training=training, ratio=measurement.ratio)

    monkeypatch.setattr(memorisation, "draw_nearest", draw)
    draw_nearest_in_split(tmp_path / "nearest.png", samples, dataset, "train", found, count=3)
    order = whole.ratio.argsort(kind="stable")[:3]
    np.testing.assert_array_equal(shown["some"], samples[order])
    np.testing.assert_array_equal(shown["training"], dataset.x["train"][whole.index[order]])
    np.testing.assert_array_equal(shown["ratio"], whole.ratio[order])


def test_the_network_of_the_package_is_for_its_own_images():
    codec = Images().codec
    assert open_extractor("", (8, 8, 1), codec) is None
    assert open_extractor("none", (28, 28, 1), codec) is None
    extractor = open_extractor("", (28, 28, 1), codec)
    assert extractor.classes_of == "FashionMNIST"
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    made = extractor.extract(images)
    assert made.features.shape == (3, 96) and made.probabilities.shape == (3, 10)


def test_the_network_of_the_package_takes_images_with_a_border_as_they_are():
    """A mean over pixels ends it, so that it is the same network on any size: here by hand."""
    codec = Images().codec
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    bordered = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    wide = open_extractor("", (32, 32, 1), codec)
    narrow = open_extractor("", (28, 28, 1), codec)
    made = wide.extract(bordered)
    network = load_network(PACKAGED).network
    np.testing.assert_allclose(
        made.features, network.features(codec.expected(bordered).astype(np.float32)), atol=1e-5
    )
    assert np.abs(made.features - narrow.extract(images).features).max() > 0.01
    assert wide.preprocessing != narrow.preprocessing  # no common reference
    for shape in ((30, 30, 1), (32, 32, 3), (28, 32, 1)):
        assert open_extractor("", shape, codec) is None


def test_classes_are_known_of_the_very_data_that_were_learned():
    extractor = Extractor("mine", {}, Means(), classes_of="Files")
    extractor = extractor._replace(data_settings={"path": "here", "value_range": [0, 1]})
    section = {"name": "Files", "path": "here", "value_range": (0, 1), "image_size": None}
    assert extractor.knows_classes(ConfigDict(section))
    assert not extractor.knows_classes(ConfigDict(section | {"path": "there"}))
    assert not extractor.knows_classes(ConfigDict(section | {"name": "Images"}))
    packaged = open_extractor("", (28, 28, 1), Images().codec)
    assert packaged.knows_classes(ConfigDict({"name": "FashionMNIST", "path": "anywhere"}))
    assert not packaged.knows_classes(ConfigDict({"name": "Files", "path": "anywhere"}))


def test_a_network_for_other_images_is_refused(tmp_path):
    packaged = str(Path(memorisation.__file__).with_name("fashion_mnist.npz"))
    codec = Images().codec
    with pytest.raises(RunError, match=r"of shape \(28, 28, 1\), but these have shape \(8, 8, 1\)"):
        open_extractor(packaged, (8, 8, 1), codec)
    with pytest.raises(RunError, match=r"1 or 3\), but the data have shape \(2,\)"):
        open_extractor(str(tmp_path / "inception.pth"), (2,), codec)
    with pytest.raises(RunError, match="there is no"):
        open_extractor(str(tmp_path / "none.npz"), (28, 28, 1), codec)
