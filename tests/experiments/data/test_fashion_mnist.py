"""Fashion-MNIST from small IDX files, and from the real ones where they are installed."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from experiments.data import FashionMNIST, batches, codec_of
from experiments.data import fashion_mnist as module
from tests.experiments.data.idx_files import NAMES, clothes, idx_bytes, make_small, write_clothes

COUNTS = {"train": 50, "test": 20}
FIT = 40
ROWS = {
    "train": ("train", slice(0, 40)),
    "validation": ("train", slice(40, 50)),
    "fit": ("train", slice(0, 50)),
    "test": ("test", slice(0, 20)),
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small data set in four files: their folder, and what they hold."""
    parts = write_clothes(tmp_path / "idx", COUNTS)
    make_small(monkeypatch, module, parts, FIT)
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "nowhere")
    return tmp_path / "idx", parts


def opened(folder, path=None):
    return FashionMNIST(path=path if path is None else str(path), data_dir=str(folder / "data"))


def assert_holds(data, parts):
    """Each split holds its rows of the files, pixel by pixel and in order."""
    for split, (part, rows) in ROWS.items():
        x, y = parts[part]
        source = data.source(split)
        examples = [source[i] for i in range(len(source))]
        np.testing.assert_array_equal(np.stack([e["x"] for e in examples])[..., 0], x[rows])
        np.testing.assert_array_equal([e["label"] for e in examples], y[rows])


@pytest.mark.parametrize("zipped", [False, True])
def test_each_split_holds_exactly_its_rows_of_the_files(small, tmp_path, zipped):
    folder, parts = small
    for file in folder.iterdir():
        file.unlink()
    write_clothes(folder, COUNTS, zipped)
    data = opened(tmp_path, folder)
    assert_holds(data, parts)
    assert data.splits == tuple(ROWS)
    got = [codec_of(256).decode(b["x"]) for b in batches(data, "fit", 16, seed=0, train=False)]
    np.testing.assert_array_equal(np.concatenate(got)[..., 0], parts["train"][0])


def test_what_has_been_written_needs_the_files_no_more(small, tmp_path):
    folder, parts = small
    opened(tmp_path, folder)
    for file in folder.iterdir():
        file.unlink()
    assert_holds(opened(tmp_path), parts)
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["fashion_mnist_idx"]


def test_the_files_are_found_where_debian_has_them_and_where_tfds_downloads_to(
    small, tmp_path, monkeypatch
):
    _, parts = small
    name = "fashion-mnist_"  # with a hash behind it, at some depth, among files of others
    downloads = tmp_path / "data" / "downloads"
    write_clothes(downloads / "fashion_mnist", COUNTS, prefix=name, suffix="Ou3jjWGGOQit-_eJ")
    write_clothes(downloads, {"train": 3, "test": 3}, prefix="cvdf-datasets_mnist_", suffix="RA_K")
    assert_holds(opened(tmp_path), parts)
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "idx")
    assert_holds(opened(tmp_path / "another"), parts)


def test_a_data_set_that_is_nowhere_says_the_command_that_brings_it(small, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="neither in .*nowhere nor below .*downloads; .*\n  apt-get install dataset-fashion-mnist"
        "\n.*data.path",
    ):
        opened(tmp_path)
    assert not (tmp_path / "data" / "fashion_mnist_idx" / "1.0.0").exists()


@pytest.mark.parametrize("name", sum(NAMES.values(), ()))
def test_a_missing_file_is_named(small, tmp_path, name):
    folder, _ = small
    (folder / f"{name}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"no file {name} or {name}.gz in .*idx; data.path"):
        opened(tmp_path, folder)


@pytest.mark.parametrize("what", ["pixel", "label", "order", "fewer", "shape", "parts"])
def test_images_that_are_not_the_clothes_are_noticed_before_anything_is_written(
    small, tmp_path, what
):
    folder, _ = small
    x, y = clothes(COUNTS["train"], seed=0)
    if what == "pixel":
        x[-1, 20, 3] ^= 1
    elif what == "label":
        y[-1] = (y[-1] + 1) % 10
    elif what == "order":
        x[[0, 1]], y[[0, 1]] = x[[1, 0]], y[[1, 0]]
    elif what == "fewer":
        x, y = x[:-1], y[:-1]
    elif what == "shape":
        x = x.reshape(COUNTS["train"], 14, 56)
    else:
        x, y = clothes(COUNTS["test"], seed=1)
    for name, array in zip(NAMES["train"], (x, y), strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    with pytest.raises(
        ValueError,
        match="train-images-idx3-ubyte.gz and .*train-labels-idx1-ubyte.gz hold .* are not those of "
        "Fashion-MNIST .*config.data.name Files",
    ):
        opened(tmp_path, folder)
    assert not (tmp_path / "data" / "fashion_mnist_idx" / "1.0.0").exists()


def test_a_damaged_file_is_named_before_anything_is_written(small, tmp_path):
    folder, _ = small
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match="cannot unpack .*t10k-images-idx3-ubyte.gz .*get the file"
    ):
        opened(tmp_path, folder)
    assert not (tmp_path / "data" / "fashion_mnist_idx" / "1.0.0").exists()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("damage", ["remove", "empty", "cut", "change", "exchange"])
def test_damage_to_what_was_written_says_what_to_delete(small, tmp_path, split, damage):
    folder, _ = small
    opened(tmp_path, folder)
    place = tmp_path / "data" / "fashion_mnist_idx" / "1.0.0"
    (path,) = place.glob(f"*-{split}.*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x20
    other = "test" if split == "train" else "train"
    path.unlink()
    if damage == "exchange":
        (source,) = place.glob(f"*-{other}.*")
        path.write_bytes(source.read_bytes())
    elif damage != "remove":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}.get(damage, content))
    message = "fashion_mnist_idx/1.0.0 is not the complete .*\n  rm -r "
    for name in [split] if split == "test" else [split, "fit"]:
        with pytest.raises(ValueError, match=message):
            list(batches(opened(tmp_path), name, 16, seed=0, train=False))


def test_lengths_are_what_the_code_knows_and_not_what_the_folder_says(small, tmp_path):
    folder, _ = small
    opened(tmp_path, folder)
    info = tmp_path / "data" / "fashion_mnist_idx" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"40"', '"39"'))
    with pytest.raises(ValueError, match="train has 39 examples, not 40.* delete it"):
        opened(tmp_path).source("train")


def test_the_stated_splits_are_the_official_ones_with_a_validation_carved_out_of_train():
    sizes = {split: rows.stop - rows.start for split, (_, rows) in module.SPLITS.items()}
    assert sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert module.SPLITS["train"][0] == module.SPLITS["validation"][0] == "train"
    assert module.SPLITS["train"][1].stop == module.SPLITS["validation"][1].start


@pytest.mark.skipif(
    not (module.DEBIAN / "train-images-idx3-ubyte.gz").exists(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_the_real_files_are_fashion_mnist():
    """Their hashes are checked on reading; each class has as many images as the authors state."""
    for part, pair in module.find_files(None, Path("/nowhere")).items():
        images, labels = module._read_part(part, *pair)
        each = {"train": 6000, "test": 1000}[part]
        assert np.bincount(labels).tolist() == 10 * [each]
        assert images.shape == (10 * each, 28, 28, 1)
