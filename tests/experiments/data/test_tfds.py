import importlib.util
import io
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from experiments.data import TFDS, batches, codec_of
from experiments.data import prepare as prepare_script

RNG = np.random.default_rng(0)
LABEL = tfds.features.ClassLabel(num_classes=3)


def png(x):
    buffer = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(buffer, "PNG")
    return buffer.getvalue()


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def write(folder, name, features, splits) -> dict[str, Any]:
    directory = folder / name / "1.0.0"
    directory.mkdir(parents=True)
    identity = DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=tfds.features.FeaturesDict(features), disable_shuffling=True
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4, file_format="array_record")
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return dict(dataset=name, data_dir=str(folder))


@pytest.fixture
def coloured(tmp_path):
    images = [noise(8, 6, 3) for _ in range(10)]
    rows = [{"image": png(x), "label": i % 3, "id": f"no {i}"} for i, x in enumerate(images)]
    features = {
        "image": tfds.features.Image(shape=(8, 6, 3)),
        "label": LABEL,
        "id": tfds.features.Text(),
    }
    return images, write(tmp_path, "coloured", features, {"train": rows[:7], "test": rows[7:]})


def test_encoded_images_are_decoded_without_tensorflow(coloured):
    images, where = coloured
    data = TFDS(**where)
    assert (data.shape, data.levels, data.num_classes, data.splits) == (
        (8, 6, 3),
        256,
        3,
        ("test", "train"),
    )
    source = data.source("train")
    assert len(source) == 7
    for i in range(7):
        np.testing.assert_array_equal(source[i]["x"], images[i], strict=True)
        assert source[i]["label"] == i % 3
    batch = next(batches(data, "test", 8, seed=0, train=False))
    np.testing.assert_array_equal(codec_of(256).decode(batch["x"]), np.stack(images[7:]))
    assert "tensorflow" not in sys.modules


def test_parts_of_splits_are_splits(coloured):
    images, where = coloured
    data = TFDS(**where)
    np.testing.assert_array_equal(data.source("train[2:4]")[1]["x"], images[3])
    assert len(data.source("train+test")) == 10
    for split in ("validation", "train+dev", "trains[:3]"):
        with pytest.raises(
            ValueError,
            match=r"unknown split '.*'; choose of test, train, or parts of them such as train",
        ):
            data.source(split)


def test_crop_keeps_the_central_pixels_and_image_size_resamples_the_central_square(coloured):
    images, where = coloured
    cropped = TFDS(**where, crop=4).source("train")[2]["x"]
    np.testing.assert_array_equal(cropped, images[2][2:6, 1:5])
    square = TFDS(**where, image_size=6).source("train")[2]["x"]
    np.testing.assert_array_equal(square, images[2][1:7])
    small = TFDS(**where, crop=4, image_size=2)
    assert small.shape == (2, 2, 3)
    means = small.source("train")[2]["x"].mean((0, 1)) - images[2][2:6, 1:5].mean((0, 1))
    assert abs(means).max() < 40  # about the same colours
    with pytest.raises(
        ValueError, match="cannot crop 7 x 7 pixels from example 0 .*, which is 8 x 6; lower crop"
    ):
        TFDS(**where, crop=7).source("train")[0]


def test_raw_arrays_and_missing_labels_will_do(tmp_path):
    images = [noise(6, 6, 1) for _ in range(3)]
    where = write(
        tmp_path,
        "raw",
        {"pixels": tfds.features.Tensor(shape=(6, 6, 1), dtype=np.uint8)},
        {"train": [{"pixels": x} for x in images]},
    )
    data = TFDS(**where)
    assert (data.shape, data.num_classes) == ((6, 6, 1), 0)
    np.testing.assert_array_equal(data.source("train")[2]["x"], images[2])
    np.testing.assert_array_equal(
        TFDS(**where, crop=2).source("train")[2]["x"], images[2][2:4, 2:4]
    )


def test_images_that_differ_in_size_need_image_size(tmp_path):
    rows = [{"image": png(noise(5 + i, 7, 3)), "label": i} for i in range(3)]
    where = write(
        tmp_path,
        "mixed",
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": LABEL},
        {"train": rows},
    )
    with pytest.raises(ValueError, match="the images of mixed differ in size; pass image_size="):
        TFDS(**where)
    batch = next(batches(TFDS(**where, image_size=4), "train", 3, seed=0, train=True))
    assert batch["x"].shape == (3, 4, 4, 3)


def test_data_sets_without_images_are_refused(tmp_path):
    where = write(
        tmp_path,
        "words",
        {"text": tfds.features.Text(), "label": LABEL},
        {"train": [{"text": "a", "label": 0}]},
    )
    with pytest.raises(
        ValueError, match="words holds no 8-bit images .* its features are label, text"
    ):
        TFDS(**where)


def test_what_is_not_prepared_names_the_command_that_prepares_it(tmp_path):
    for name in ("cifar10", "lsun/bedroom", "mnist:3.0.1"):
        with pytest.raises(
            FileNotFoundError,
            match=f"python -m experiments.data.prepare {name} --data_dir={tmp_path}",
        ):
            TFDS(dataset=name, data_dir=str(tmp_path))
    with pytest.raises(
        ValueError, match="'cifar_10' is neither prepared in .* did you mean cifar10"
    ):
        TFDS(dataset="cifar_10", data_dir=str(tmp_path))


def test_files_without_random_access_name_the_command_too(coloured, tmp_path):
    _, where = coloured
    info = tmp_path / "coloured" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        FileNotFoundError,
        match="holds tfrecord files, which cannot be read at random; .*\n  python -m experiments.data.prepare",
    ):
        TFDS(**where)


def test_wrong_sizes_are_refused(coloured):
    with pytest.raises(ValueError, match="need image_size >= 1, got 0"):
        TFDS(**coloured[1], image_size=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(crop=-1), "need crop >= 1, got -1"),
        (dict(image_size="abc"), "image_size must be a whole number, got 'abc'"),
        (dict(image_size=10**9), "need image_size <= 8192"),
        (dict(dataset=""), "dataset must be a name that is not empty, got ''"),
        (dict(dataset="../coloured"), r"dataset is '../coloured', expected name, name/config"),
        (dict(dataset="two words"), "dataset is 'two words', expected name, name/config"),
        (dict(dataset=5), "dataset must be a name that is not empty, got 5"),
        (
            dict(dataset="coloured:9.9.9"),
            "coloured does not hold coloured:9.9.9, .*; it holds .*1.0.0",
        ),
        (dict(data_dir="~nobody-of-this-name"), "TFDS_DATA_DIR, .*; write the whole path"),
    ],
)
def test_settings_that_make_no_sense_are_refused(coloured, settings, message):
    with pytest.raises(ValueError, match=message):
        TFDS(**{**coloured[1], **settings})


def test_parts_of_splits_that_are_empty_or_misspelt_are_refused(coloured):
    data = TFDS(**coloured[1])
    for split in ("train[:0]", "train[5:2]", "train[:1%]"):
        with pytest.raises(ValueError, match=r"split '.*' is empty; choose of test, train"):
            data.source(split)
    for split in ("train[abc]", "train[:", "train[:200%]", "train[100:]", "train[::2]"):
        with pytest.raises(ValueError, match=r"cannot read split '.*' \(.*\); choose of test, tr"):
            data.source(split)


FILES = ["test.array_record-00000", "train.array_record-00001", "dataset_info", "features"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["remove", "empty", "cut", "change"])
def test_damaged_files_say_how_to_prepare_the_data_set_anew(coloured, tmp_path, name, damage):
    (path,) = [p for p in (tmp_path / "coloured" / "1.0.0").iterdir() if name in p.name]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x20
    path.unlink()
    if damage != "remove":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}.get(damage, content))
    with pytest.raises(ValueError, match="damaged|not all of its files") as error:
        data = TFDS(**coloured[1])
        for split in data.splits:
            next(batches(data, split, 2, seed=0, train=False))
    if "is damaged (" in str(error.value):
        command = f"python -m experiments.data.prepare coloured --data_dir={tmp_path}"
        assert "rm -r " in str(error.value) and command in str(error.value)


def test_files_that_hold_another_number_of_examples_are_noticed(coloured, tmp_path):
    info = tmp_path / "coloured" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"4"', '"2"'))
    with pytest.raises(ValueError, match="train.array_record-00000 holds 4 examples, not 2"):
        TFDS(**coloured[1]).source("train")


def test_images_of_four_channels_lie_on_white_and_arrays_of_any_number_are_cut(tmp_path):
    x = noise(6, 6, 4)
    rows = [{"image": png(x)}]
    where = write(
        tmp_path, "clear", {"image": tfds.features.Image(shape=(6, 6, 4))}, {"train": rows}
    )
    data = TFDS(**where)
    assert data.shape == (6, 6, 3)
    alpha = x[..., 3:] / 255
    expected = x[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(data.source("train")[0]["x"] - expected).max() <= 1
    for channels in (2, 5):
        x = noise(6, 6, channels)
        feature = tfds.features.Tensor(shape=x.shape, dtype=np.uint8)
        where = write(tmp_path, f"raw{channels}", {"image": feature}, {"train": [{"image": x}]})
        cut = TFDS(**where, crop=2).source("train")[0]["x"]
        np.testing.assert_array_equal(cut, x[2:4, 2:4])


def test_examples_without_a_class_are_named(tmp_path):
    rows = [{"image": png(noise(6, 6, 3)), "label": label} for label in (1, -1)]
    features = {"image": tfds.features.Image(shape=(6, 6, 3)), "label": LABEL}
    where = write(tmp_path, "half", features, {"train": rows})
    with pytest.raises(ValueError, match="example 1 of half/1.0.0 has label -1, expected 0, 1, 2"):
        next(batches(TFDS(**where), "train", 2, seed=0, train=False))


class Offline:
    data_dir = "somewhere"

    def download_and_prepare(self):
        raise ConnectionError("no route to host")


def test_preparing_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs TensorFlow: install the extra with\n  pip install"):
        prepare_script.prepare("cifar10", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(SystemExit, match="'cifar_10' is not in the catalogue"):
        prepare_script.prepare("cifar_10", str(tmp_path))
    options_used: dict[str, Any] = {}
    monkeypatch.setattr(
        tfds,
        "builder",
        lambda name, **options: options_used.update(options, name=name) or Offline(),
    )
    with pytest.raises(
        SystemExit, match="preparing cifar10 in .* failed: ConnectionError: no route to host"
    ):
        prepare_script.prepare("cifar10", str(tmp_path))
    assert options_used == {"name": "cifar10", "data_dir": tmp_path, "file_format": "array_record"}
