import importlib.util
import io
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from experiments.data import TFDS, batches, unscale
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
    np.testing.assert_array_equal(unscale(batch["x"], 256), np.stack(images[7:]))
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
    with pytest.raises(ValueError, match="need positive image_size and crop, got 0 and None"):
        TFDS(**coloured[1], image_size=0)


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
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        tfds, "builder", lambda name, **options: asked.update(options, name=name) or Offline()
    )
    with pytest.raises(
        SystemExit, match="preparing cifar10 in .* failed: ConnectionError: no route to host"
    ):
        prepare_script.prepare("cifar10", str(tmp_path))
    assert asked == {"name": "cifar10", "data_dir": tmp_path, "file_format": "array_record"}
