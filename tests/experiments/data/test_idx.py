"""IDX files: each type of value, plain or gzipped, and every way to be damaged."""

import gzip
import re

import numpy as np
import pytest

from experiments.data import Files
from experiments.data.idx import is_idx_name, read_idx, read_idx_pair
from tests.experiments.data.idx_files import idx_bytes

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 3, 5), np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_of_each_type_is_the_array_that_was_written(tmp_path, dtype, shape, zipped):
    x = (RNG.normal(size=shape) * 1000).astype(np.int64).astype(dtype)
    content = idx_bytes(x)
    (tmp_path / "x").write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), x, strict=True)


def test_the_bytes_of_a_known_file_are_read_as_the_format_says(tmp_path):
    """Not written by our own writer: 2 x 2 numbers of 16 bits, 1, 256, -1, 258."""
    content = "00000b02 00000002 00000002 0001 0100 ffff 0102"
    (tmp_path / "x").write_bytes(bytes.fromhex(content))
    assert read_idx(tmp_path / "x").tolist() == [[1, 256], [-1, 258]]


GOOD = idx_bytes(IMAGES)
TORN = bytearray(gzip.compress(GOOD))
TORN[len(TORN) // 2] ^= 0x20
DAMAGED = {
    "empty": (b"", r"begins with the bytes \[\], expected 00 00, a type \(08 09 0b 0c 0d 0e\)"),
    "three bytes": (GOOD[:3], r"begins with the bytes \[00 00 08\], expected"),
    "another kind": (b"\x89PNG" + GOOD[4:], r"the bytes \[89 50 4e 47\], .* no IDX file"),
    "first byte": (b"\1" + GOOD[1:], r"the bytes \[01 00 08 03\], expected 00 00"),
    "second byte": (b"\0\1" + GOOD[2:], r"the bytes \[00 01 08 03\], expected 00 00"),
    "type": (b"\0\0\x0a\3" + GOOD[4:], r"the bytes \[00 00 0a 03\], expected .* a type"),
    "no axes": (b"\0\0\x08\0", r"the bytes \[00 00 08 00\], .* number of axes from 01 to 08"),
    "nine axes": (b"\0\0\x08\x09" + bytes(99), r"\[00 00 08 09\], .* axes from 01 to 08"),
    "torn header": (
        GOOD[:15],
        "ends after 15 bytes, inside of its header of 16; get the file anew",
    ),
    "one byte short": (
        GOOD[:-1],
        r"holds 104 bytes of values, .* says \(7, 3, 5\) values of type uint8, which are 105 bytes",
    ),
    "one byte long": (GOOD + b"\0", "holds 106 bytes of values, .* which are 105 bytes"),
    "swapped lengths": (
        GOOD[:4] + np.array([7, 3, 5], "<u4").tobytes() + GOOD[16:],
        r"says \(117440512, 50331648, 83886080\) values",
    ),
    "torn gzip": (gzip.compress(GOOD)[:-20], "cannot unpack .*x-idx3 .gzip: .*; get the file anew"),
    "damaged gzip": (bytes(TORN), "cannot unpack .*x-idx3 .gzip: "),
    "no deflate": (TORN[:10] + b"\xff" * 30, "cannot unpack .*x-idx3 .gzip: .*invalid block type"),
    "half a gzip header": (b"\x1f\x8b\x08", "cannot unpack .*x-idx3 .gzip: "),
    "gzip and more": (gzip.compress(GOOD) + b"more", "cannot unpack .*x-idx3 .gzip: Not a gzipped"),
    "short gzip": (gzip.compress(GOOD[:-5]), "holds 100 bytes of values, .* are 105 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named_with_what_was_found_and_expected(tmp_path, damage):
    content, message = DAMAGED[damage]
    path = tmp_path / "x-idx3"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value) and "get the file anew" in str(error.value)


def put(folder, **arrays):
    paths = [folder / name for name in arrays]
    for path, x in zip(paths, arrays.values(), strict=True):
        path.write_bytes(idx_bytes(x))
    return paths


def test_images_and_labels_that_belong_together_are_read(tmp_path):
    x, y = read_idx_pair(*put(tmp_path, x=IMAGES, y=np.arange(7, dtype=np.uint8)))
    np.testing.assert_array_equal(x, IMAGES, strict=True)
    np.testing.assert_array_equal(y, np.arange(7, dtype=np.uint8), strict=True)


@pytest.mark.parametrize("count", [6, 8])
def test_images_and_labels_that_differ_in_number_are_named(tmp_path, count):
    images, labels = put(tmp_path, x=IMAGES, y=np.zeros(count, np.uint8))
    message = f"{images} holds 7 images, but {labels} {count} labels; expected one label for each"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_idx_pair(images, labels)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros(7, np.uint8), IMAGES, r"x holds uint8 of shape \(7,\), expected images: uint8"),
        (IMAGES, IMAGES, r"y holds uint8 of shape \(7, 3, 5\), expected labels: uint8 with 1 axes"),
        (IMAGES.astype(np.int16), np.zeros(7, np.uint8), "x holds int16 of shape .*the right way"),
    ],
)
def test_files_the_wrong_way_round_are_named(tmp_path, x, y, message):
    with pytest.raises(ValueError, match=message):
        read_idx_pair(*put(tmp_path, x=x, y=y))


@pytest.mark.parametrize(
    "name, is_one",
    [
        ("train-images-idx3-ubyte", True),
        ("train-labels-idx1-ubyte.gz", True),
        ("train-images.idx3-ubyte", True),
        ("x.idx2", True),
        ("x.npy", False),
        ("idx3.npy", False),
        ("appendix1.gz", False),
        ("x-idx.gz", False),
    ],
)
def test_idx_files_are_told_by_their_names(tmp_path, name, is_one):
    assert is_idx_name(tmp_path / name) == is_one


def test_idx_files_are_data_of_ones_own(tmp_path):
    """As MNIST lies in a folder: images in one file, labels in another."""
    images = tmp_path / "train-images-idx3-ubyte.gz"
    labels = tmp_path / "train-labels-idx1-ubyte"
    x = RNG.integers(0, 256, (30, 6, 5), np.uint8)
    images.write_bytes(gzip.compress(idx_bytes(x)))
    labels.write_bytes(idx_bytes((np.arange(30) % 3).astype(np.uint8)))
    data = Files(path=str(images), labels=str(labels), validation=0)
    assert (data.shape, data.levels, data.num_classes) == ((6, 5, 1), 256, 3)
    for index in (0, 7, 29):
        example = data.source("train")[index]
        np.testing.assert_array_equal(example["x"][..., 0], x[index], strict=True)
        assert example["label"] == index % 3
    images.write_bytes(gzip.compress(idx_bytes(x)[:-1]))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz holds 899 bytes of values"):
        Files(path=str(images))
