"""What every public data set has to do, and what one that a user writes may look like. A new one
meets the tests by being exported.
"""

import inspect
import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments import data
from experiments.data import fashion_mnist
from experiments.data.base import Source, check_facts
from experiments.run.build import make_dataset
from tests.experiments.data.idx_files import make_small, write_clothes

PUBLIC = {
    name: value
    for name, value in vars(data).items()
    if inspect.isclass(value) and issubclass(value, data.DataSet) and not inspect.isabstract(value)
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small example of each public data set; a new one needs a line here."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(30, 2)), y=np.arange(30) % 3)
    digits = data.Digits(data_dir=str(folder))  # which TFDS reads as one of its own
    noise = np.random.default_rng(0).integers(0, 256, (90, 180, 3), np.uint8)
    Image.fromarray(noise).save(folder / "earth.png")
    monkeypatch = pytest.MonkeyPatch()
    counts = {"train": 40, "test": 20}
    make_small(monkeypatch, fashion_mnist, write_clothes(folder / "idx", counts), fit=30)
    yield {
        "Digits": digits,
        "FashionMNIST": data.FashionMNIST(path=str(folder / "idx"), data_dir=str(folder)),
        "Files": data.Files(path=str(folder / "x.npz")),
        "Satellite": data.Satellite(path=str(folder / "earth.png"), image_size=2),
        "TFDS": data.TFDS(dataset="sklearn_digits", data_dir=str(folder)),
        "Toy": data.Toy(density="moons", size=50),
    }
    monkeypatch.undo()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_data_set_keeps_the_promises_of_a_data_set(prepared, name):
    dataset = prepared[name]
    check_facts(dataset)
    for split in dataset.splits:
        source = dataset.source(split)
        label = source[len(source) - 1]["label"]
        assert source[0]["x"].shape == dataset.shape and label < max(1, dataset.num_classes)
        for index in (-1, len(source)):
            with pytest.raises(IndexError):
                source[index]
    assert data.statistics(dataset, "train", limit=20).count == 20
    with pytest.raises(ValueError, match="unknown split 'nope'.*train"):
        dataset.source("nope")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_data_set_goes_on_where_it_was_stopped(prepared, name):
    def fresh():
        return data.batches(prepared[name], "train", 16, seed=3, train=True)

    stream = fresh()
    next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    expected = next(stream)
    again = fresh()
    again.set_state(state)
    for key, value in next(again).items():
        np.testing.assert_array_equal(value, expected[key], strict=True)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_data_set_refuses_a_batch_that_is_larger_than_it(prepared, name):
    size = len(prepared[name].source("train"))
    whole = next(data.batches(prepared[name], "train", size, seed=0, train=True))
    assert len(whole["x"]) == size
    with pytest.raises(ValueError, match=f"batch_size {size + 1} is larger than split 'train'"):
        data.batches(prepared[name], "train", size + 1, seed=0, train=True)
    rest = list(data.batches(prepared[name], "train", size + 1, seed=0, train=False))
    assert [len(batch["x"]) for batch in rest] == [size]


class Bare(data.DataSet):
    """As short as a data set can be: no constructor, values of Python."""

    shape, levels, num_classes, splits = (2,), None, 0, ("train",)

    def source(self, split):
        return Source(8, lambda index: ([float(index), 1.0], 0))


class Open(Bare):
    """One that hands its settings on."""

    def __init__(self, *sizes, scale=1.0, **others):
        self.settings = {"scale": scale, **others}


def made(monkeypatch, kind, **settings):
    monkeypatch.setattr(data, kind.__name__, kind, raising=False)
    return make_dataset(ConfigDict({"data": {"name": kind.__name__, **settings}}))


def test_a_data_set_without_a_constructor_is_built_and_read(monkeypatch):
    dataset = made(monkeypatch, Bare)
    batch = next(data.batches(dataset, "train", 8, seed=0, train=False))
    np.testing.assert_array_equal(batch["x"][:, 0], np.arange(8))
    for setting in ("size", "args", "kwargs"):
        with pytest.raises(ValueError, match=f"Bare has no setting {setting}; it takes none"):
            made(monkeypatch, Bare, **{setting: 5})


def test_a_data_set_with_settings_of_any_name_gets_them(monkeypatch):
    assert made(monkeypatch, Open).settings == {"scale": 1.0}
    assert made(monkeypatch, Open, scale=2.0, depth=3).settings == {"scale": 2.0, "depth": 3}
