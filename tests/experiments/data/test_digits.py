import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from experiments.data import Digits, batches, codec_of
from experiments.data import digits as module

BUNCH: Any = load_digits()
ROWS = {"train": (0, 1300), "validation": (1300, 1500), "fit": (0, 1500), "test": (1500, 1797)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(folder):
    return Digits(data_dir=str(folder))


@pytest.mark.parametrize("split", ROWS)
def test_each_split_holds_exactly_its_rows_of_scikit_learns_digits(digits, split):
    rows = slice(*ROWS[split])
    source = digits.source(split)
    examples = [source[i] for i in range(len(source))]
    np.testing.assert_array_equal(np.stack([e["x"] for e in examples])[..., 0], BUNCH.images[rows])
    np.testing.assert_array_equal([e["label"] for e in examples], BUNCH.target[rows])
    assert all(
        e["x"].shape == digits.shape and e["x"].dtype == np.uint8 and e["label"].dtype == np.int32
        for e in examples
    )


def test_batches_floor_back_to_the_digits(digits):
    got = np.concatenate(
        [
            codec_of(digits.levels).decode(b["x"])
            for b in batches(digits, "test", 128, seed=0, train=False)
        ]
    )
    np.testing.assert_array_equal(got[..., 0], BUNCH.images[1500:])


def test_it_lies_on_disk_as_any_tfds_data_set_does(digits, folder):
    builder: Any = tfds.builder("sklearn_digits", data_dir=folder)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 1300,
        "validation": 200,
        "test": 297,
    }
    assert builder.as_data_source("test")[5]["label"] == BUNCH.target[1505]
    # nothing left over from writing
    assert [p.name for p in folder.iterdir()] == ["sklearn_digits"]


def test_the_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "set"))
    Digits()
    assert (tmp_path / "set" / "sklearn_digits").is_dir()
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Digits()
    assert (tmp_path / "home" / "tensorflow_datasets" / "sklearn_digits").is_dir()


def test_an_unknown_split_lists_the_choices(digits):
    with pytest.raises(
        ValueError, match="unknown split 'valid'; choose one of train, validation, fit, test"
    ):
        digits.source("valid")


def _open_together(folder, barrier):
    barrier.wait()
    assert len(Digits(data_dir=folder).source("fit")) == 1500


def test_two_processes_may_prepare_it_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_open_together, args=(str(tmp_path), barrier)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["sklearn_digits"]


def test_the_slower_of_two_processes_takes_what_the_faster_wrote(tmp_path, monkeypatch):
    write = module._write

    def overtaken(directory):
        write(directory)
        monkeypatch.setattr(module, "_write", write)
        Digits(data_dir=str(tmp_path))

    monkeypatch.setattr(module, "_write", overtaken)
    assert len(Digits(data_dir=str(tmp_path)).source("test")) == 297
    assert [p.name for p in tmp_path.iterdir()] == ["sklearn_digits"]


def test_an_interruption_while_writing_leaves_no_torn_data_set(tmp_path, monkeypatch):
    def dies(directory):
        directory.mkdir()
        (directory / "dataset_info.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            Digits(data_dir=str(tmp_path))
    assert len(Digits(data_dir=str(tmp_path)).source("fit")) == 1500


FILES = [
    "dataset_info.json",
    "features.json",
    "sklearn_digits-train.array_record-00000-of-00001",
    "sklearn_digits-validation.array_record-00000-of-00001",
    "sklearn_digits-test.array_record-00000-of-00001",
]


@pytest.fixture
def copy(digits, folder, tmp_path):
    """A prepared data set of digits to damage: its folder, and the place of its files."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / "sklearn_digits" / "1.0.0"


def assert_says_what_to_delete(directory):
    with pytest.raises(
        ValueError, match="sklearn_digits/1.0.0 is not the complete data set of digits .*delete it"
    ):
        Digits(data_dir=str(directory))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x20
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(b""), cut, change_a_byte]
)
def test_a_damaged_data_set_says_what_to_delete_or_holds_the_same_digits(copy, name, damage):
    directory, place = copy
    (path,) = [p for p in place.iterdir() if p.name.startswith(name[:24])]
    damage(path)
    try:
        data = Digits(data_dir=str(directory))
    except ValueError as error:
        assert "sklearn_digits/1.0.0 is not the complete data set" in str(error)
    else:  # a byte of the description, which nothing reads
        assert path.suffix == ".json" and damage is change_a_byte
        assert data.source("train")[7]["label"] == BUNCH.target[7]


def test_lengths_are_what_the_code_knows_and_not_what_the_folder_says(copy):
    directory, place = copy
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace('"1300"', '"1200"'))
    assert_says_what_to_delete(directory)


@pytest.mark.parametrize("other", ["train", "validation"])
def test_a_split_exchanged_for_another_is_noticed(copy, other):
    directory, place = copy
    (test,) = place.glob("*-test.*")
    (exchanged,) = place.glob(f"*-{other}.*")
    shutil.copy(exchanged, test)
    assert_says_what_to_delete(directory)


@pytest.mark.parametrize("what", ["pixel", "label", "order"])
def test_other_digits_of_the_same_number_are_noticed(tmp_path, monkeypatch, what):
    x, labels = (np.array(a) for a in load_digits(return_X_y=True))
    if what == "pixel":
        x[1600, 20] = 16 - x[1600, 20]
    elif what == "label":
        labels[1600] = (labels[1600] + 1) % 10
    else:
        x[[1600, 1601]], labels[[1600, 1601]] = x[[1601, 1600]], labels[[1601, 1600]]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda return_X_y: (x, labels))
    assert_says_what_to_delete(tmp_path)


def test_a_folder_that_cannot_be_written_says_how_to_choose_another(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(
        OSError,
        match="cannot write to .*file .*choose another folder with data_dir or TFDS_DATA_DIR",
    ):
        Digits(data_dir=os.fspath(Path(blocked)))
