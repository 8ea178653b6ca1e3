"""Folders as people have them: links, names and suffixes of every kind, and files that are no
images, or broken ones.
"""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data import Files, batches, statistics
from experiments.data.base import BadExamples
from experiments.data.image_files import SUFFIXES

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def put(path, x=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(16, 16, 3) if x is None else x).save(path, **options)


def names(data):
    return [
        data.source(split).name(i) for split in data.splits for i in range(len(data.source(split)))
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_that_is_named_is_read(tmp_path, suffix):
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "MPO", ".apng": "PNG"}.get(suffix)
    for name in "ab":
        x = noise(16, 16) if suffix in (".pgm", ".pbm") else None
        if suffix == ".pbm":
            x = (np.asarray(x) > 127).astype(bool)
        put(tmp_path / f"{name}{suffix.upper()}", x, format=kind)
    data = Files(path=str(tmp_path), image_size=8)
    assert statistics(data, "train").count == 1


def test_an_image_without_a_suffix_is_told_by_its_first_bytes(tmp_path):
    put(tmp_path / "a", format="PNG")
    put(tmp_path / "b.png")
    (tmp_path / "LICENSE").write_text("no image")
    with pytest.warns(UserWarning, match="1 files are no images and left out: LICENSE$"):
        data = Files(path=str(tmp_path), validation=0)
    assert names(data) == ["a", "b.png"]


def test_what_is_left_out_is_named_and_what_file_managers_leave_behind_is_not(tmp_path):
    put(tmp_path / "a.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png", ".cache/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("litter")
    data = Files(path=str(tmp_path), validation=0)
    assert names(data) == ["a.png"]
    (tmp_path / "picture.heic").write_text("of another kind")
    (tmp_path / "raw.dng").write_bytes(b"II*\0")
    with pytest.warns(UserWarning, match="2 files are no images .*: picture.heic, raw.dng"):
        Files(path=str(tmp_path), validation=0)


def test_linked_folders_and_files_are_followed(tmp_path):
    for kind in ("cats", "dogs"):
        put(tmp_path / "elsewhere" / kind / "1.png")
    (tmp_path / "data").mkdir()
    put(tmp_path / "data" / "birds" / "1.png")
    (tmp_path / "data" / "cats").symlink_to(tmp_path / "elsewhere" / "cats")
    (tmp_path / "data" / "dogs").mkdir()
    (tmp_path / "data" / "dogs" / "2.png").symlink_to(tmp_path / "elsewhere" / "dogs" / "1.png")
    data = Files(path=str(tmp_path / "data"), validation=0)
    assert names(data) == ["birds/1.png", "cats/1.png", "dogs/2.png"]
    assert [int(data.source("train")[i]["label"]) for i in range(3)] == [0, 1, 2]


def test_a_link_to_a_folder_above_ends_nothing_and_is_named(tmp_path):
    put(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "short").symlink_to(tmp_path / "a")
    with pytest.warns(
        UserWarning, match=r"2 files .* a/loop \(a link to a folder .* a/short \(a link"
    ):
        data = Files(path=str(tmp_path), validation=0)
    assert names(data) == ["a/1.png"]


def test_names_that_are_no_utf8_are_read_and_printed(tmp_path):
    good = os.fsencode(tmp_path) + b"/caf\xe9.png"
    buffer = io.BytesIO()
    Image.fromarray(noise(4, 4)).save(buffer, "PNG")
    for name in (good, os.fsencode(tmp_path) + b"/b.png"):
        with open(name, "wb") as file:
            file.write(buffer.getvalue())
    data = Files(path=str(tmp_path))
    assert sorted(names(data)) == ["b.png", r"caf\xe9.png"]
    with open(good, "wb") as file:
        file.write(b"")
    with pytest.raises(ValueError, match=r"cannot read caf\\xe9.png as an image") as error:
        Files(path=str(tmp_path))
    str(error.value).encode()


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    put(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(UserWarning, match="2 files are no images and left out: pipe, pipe.png"):
        Files(path=str(tmp_path), validation=0)


def spoil(folder):
    """Break four of the images 00.png to 09.png, each in its own way."""
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(b"")
    (folder / "03.png").write_bytes(b"no image at all")
    (folder / "05.png").write_bytes(whole[: len(whole) // 2])  # its header is good
    (folder / "07.png").unlink()
    (folder / "07.png").symlink_to("nowhere.png")


@pytest.fixture
def spoilt(tmp_path):
    for i in range(10):
        put(tmp_path / f"{i:02d}.png")
    spoil(tmp_path)
    return tmp_path


def test_all_unreadable_images_are_listed_at_once(spoilt):
    with pytest.raises(BadExamples, match="3 examples cannot be used") as error:
        Files(path=str(spoilt))
    for name in ("01.png", "03.png", "07.png"):
        assert f"cannot read {name} as an image" in str(error.value)
    assert "data.skip_unreadable=True" in str(error.value)


def test_images_that_are_found_torn_when_decoded_are_listed_at_once_before_training(tmp_path):
    for i in range(10):
        put(tmp_path / f"{i}.png")
    for i in (2, 8):
        whole = (tmp_path / f"{i}.png").read_bytes()
        (tmp_path / f"{i}.png").write_bytes(whole[:-200])
    with pytest.raises(BadExamples, match="2 examples .*\n.*read 2.png .*\n.*read 8.png"):
        statistics(Files(path=str(tmp_path), validation=0), "train")


def test_unreadable_images_are_skipped_on_demand_and_the_others_keep_their_split(spoilt, tmp_path):
    with pytest.warns(
        UserWarning,
        match="4 of 10 images cannot be read and are left out: 01.png, 03.png, 05.png, 07",
    ):
        data = Files(path=str(spoilt), skip_unreadable=True, validation=0.3)
    for name in ("01.png", "03.png", "05.png", "07.png"):
        (spoilt / name).unlink()
    assert names(data) == names(Files(path=str(spoilt), validation=0.3))
    assert next(batches(data, "train", 2, seed=0, train=True))["x"].shape == (2, 16, 16, 3)


def test_classes_do_not_move_where_the_images_of_one_cannot_be_read(tmp_path):
    for kind in "abc":
        put(tmp_path / kind / "1.png")
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 3 images"):
        data = Files(path=str(tmp_path), validation=0, skip_unreadable=True)
    assert data.num_classes == 3 and data.source("train")[0]["label"] == 1


def test_nothing_readable_is_no_data_set(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot read a.png as an image .*empty, damaged"):
        Files(path=str(tmp_path), skip_unreadable=True)


def test_folders_named_as_splits_are_not_taken_for_classes(tmp_path):
    for split in ("train", "Test"):
        put(tmp_path / split / "cat" / "1.png")
    with pytest.raises(ValueError, match="sub-folders Test, train look like splits"):
        Files(path=str(tmp_path))


def test_a_class_without_images_is_named(tmp_path):
    for kind in "ab":
        put(tmp_path / kind / "1.png")
    (tmp_path / "c").mkdir()
    with pytest.warns(UserWarning, match="sub-folders without images are no classes: c"):
        assert Files(path=str(tmp_path), validation=0).num_classes == 2


def test_images_that_are_enlarged_are_named(tmp_path):
    put(tmp_path / "small.png", noise(8, 30))
    put(tmp_path / "large.png", noise(30, 30))
    with pytest.warns(UserWarning, match="1 images are smaller than image_size=16 .*: small.png"):
        Files(path=str(tmp_path), image_size=16)


def test_folders_of_arrays_say_how_to_name_one(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, noise(4, 4, 4))
    with pytest.raises(ValueError, match="but arrays: a.npy, b.npy; name one of them in data.path"):
        Files(path=str(tmp_path))


def huge_png(width, height):
    """Return a PNG file that says that it has so many pixels; its data are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + crc
        + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_images_of_enormous_sizes_are_not_decoded(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(huge_png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, which is an error in these tests
        with pytest.raises(ValueError, match="bomb.png .*pixels.*; remove or replace it"):
            Files(path=str(tmp_path), validation=0)
