"""Image data sets of the TFDS catalogue (cifar10, mnist, svhn_cropped, celeb_a, lsun/bedroom, ...), read without TensorFlow.

They are read from the array_record files that ``python -m experiments.data.prepare NAME`` writes once; only that needs TensorFlow.
"""

import difflib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.read_only_builder import builder_from_files
from tensorflow_datasets.core.registered import DatasetNotFoundError

from .base import DataSet, Source
from .images import fit_image, fitted_shape, read_image


class TFDS(DataSet):
    """An image data set by its catalogue name, for example ``TFDS(dataset="celeb_a", crop=140, image_size=64)``.

    Splits are those of the data set and TFDS's expressions of them, for example ``train[:45000]`` or ``train+test``.
    A feature called ``label`` that is a class label gives the classes.

    Args:
      dataset: ``name``, ``name/config`` or ``name/config:version``.
      data_dir: where data sets are kept; default: the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets.
      image_size: resample the largest central square to this many pixels; needed when the images differ in size.
      crop: before that, keep this many central pixels a side.

    Raises:
      FileNotFoundError: not prepared; the message names the command that prepares it.
      ValueError: no such data set, or one that does not hold 8-bit images (H, W, C).
    """

    levels = 256

    def __init__(
        self,
        *,
        dataset: str,
        data_dir: str | None = None,
        image_size: int | None = None,
        crop: int | None = None,
    ):
        if (image_size is not None and image_size < 1) or (crop is not None and crop < 1):
            raise ValueError(f"need positive image_size and crop, got {image_size} and {crop}")
        self._builder: Any = find_prepared(dataset, data_directory(data_dir))
        self._crop, self._size = crop, image_size
        features = self._builder.info.features
        self._key = _image_key(dataset, features)
        self._encoded = isinstance(features[self._key], tfds.features.Image)
        *size, channels = features[self._key].shape
        height, width = fitted_shape(size[0], size[1], crop, image_size)
        if height is None or width is None:
            raise ValueError(
                f"the images of {dataset} differ in size; pass image_size=... to cut and resample them to squares"
            )
        self.shape = (height, width, channels)
        label = features["label"] if "label" in features else None
        self.num_classes = (
            (label.num_classes or 0)
            if label is not None and isinstance(label, tfds.features.ClassLabel)
            else 0
        )
        self.splits = tuple(sorted(self._builder.info.splits))

    def source(self, split: str) -> Source:
        names = {part.partition("[")[0].strip() for part in split.split("+")}
        if not names <= set(self.splits):
            choices = ", ".join(self.splits)
            raise ValueError(
                f"unknown split {split!r}; choose of {choices}, or parts of them such as {self.splits[-1]}[:90%]"
            )
        decoders = (
            {self._key: tfds.decode.SkipDecoding()} if self._encoded else None
        )  # Pillow decodes below
        records = self._builder.as_data_source(split, decoders=decoders)

        def read(index: int) -> tuple[np.ndarray, int]:
            record = records[index]
            label = record["label"] if self.num_classes else 0
            image = record[self._key]
            where = f"example {index} of {self._builder.info.full_name}"
            if self._encoded:
                return read_image(
                    io.BytesIO(image), where, self.shape[2], self._crop, self._size
                ), label
            if self._crop is None and self._size is None:
                return image, label
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            return fit_image(picture, where, self._crop, self._size).reshape(self.shape), label

        return Source(len(records), read)


def data_directory(data_dir: str | None) -> Path:
    """Return the folder in which prepared data sets are kept: the argument, TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, directory: Path) -> tfds.core.DatasetBuilder:
    """Open a data set that lies prepared, for random access, under ``directory``; the errors of `TFDS` otherwise."""
    command = f"python -m experiments.data.prepare {name} --data_dir={directory}"
    try:
        builder = builder_from_files(name, data_dir=directory)
    except DatasetNotFoundError:
        base = name.partition("/")[0].partition(":")[0]
        catalogue = tfds.list_builders(with_community_datasets=False)
        if base not in catalogue:
            close = difflib.get_close_matches(base, catalogue, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ValueError(
                f"{name!r} is neither prepared in {directory} nor in the catalogue of TFDS{hint}"
            ) from None
        raise FileNotFoundError(
            f"data set {name} is not prepared in {directory}; prepare it with\n  {command}"
        ) from None
    if tfds.core.FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        found = builder.info.file_format
        raise FileNotFoundError(
            f"{builder.data_dir} holds {found.value if found else 'unknown'} files, which cannot be read at random; "
            f"remove it, or choose another data_dir, and prepare the data set with\n  {command}"
        )
    return builder


def _image_key(name: str, features) -> str:
    keys = sorted(features)  # TFDS lists them in another order in each process
    images = [
        key
        for key in keys
        if len(features[key].shape or ()) == 3 and features[key].np_dtype == np.uint8
    ]
    if not images:
        raise ValueError(
            f"{name} holds no 8-bit images (H, W, C); its features are {', '.join(keys)}"
        )
    return "image" if "image" in images else images[0]
