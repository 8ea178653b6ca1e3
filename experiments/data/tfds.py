"""Image data sets of the TFDS catalogue, read without TensorFlow.

These are cifar10, mnist, svhn_cropped, celeb_a, lsun/bedroom, ... They are read from the
array_record files that ``python -m experiments.data.prepare NAME`` writes once; only that needs
TensorFlow.
"""

import difflib
import io
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from tensorflow_datasets.core.read_only_builder import builder_from_files
from tensorflow_datasets.core.registered import DatasetNotFoundError

from .base import DataSet, Source
from .images import fit_image, fitted_shape, read_image
from .settings import LARGEST_SIDE, check_path, check_text, check_whole


class TFDS(DataSet):
    """An image data set by its catalogue name.

    For example ``TFDS(dataset="celeb_a", crop=140, image_size=64)``. Splits are those of the data
    set and TFDS's expressions of them, for example ``train[:45000]`` or ``train+test``. A feature
    called ``label`` that is a class label gives the classes.

    Args:
      dataset: ``name``, ``name/config`` or ``name/config:version``.
      data_dir: where data sets are kept; default: the environment variable TFDS_DATA_DIR, else
          ~/tensorflow_datasets.
      image_size: resample the largest central square to this many pixels; needed when the images
          differ in size.
      crop: before that, keep this many central pixels a side.

    Raises:
      FileNotFoundError: not prepared; the message names the command that prepares it.
      ValueError: no such data set, one that does not hold 8-bit images (H, W, C), or one whose
          files are damaged; the message says what to do.
    """

    levels = 256
    licence = "see the data set's page"

    def __init__(
        self,
        *,
        dataset: str,
        data_dir: str | None = None,
        image_size: int | None = None,
        crop: int | None = None,
    ):
        if image_size is not None:
            image_size = check_whole("image_size", image_size, 1, LARGEST_SIDE)
        if crop is not None:
            crop = check_whole("crop", crop, 1, LARGEST_SIDE)
        self._name = check_text("dataset", dataset)
        self._directory = data_directory(data_dir)
        self._builder: Any = find_prepared(dataset, self._directory)
        self._crop = crop
        self._size = image_size
        self.licence = self._builder.info.redistribution_info.license or self.licence
        self.origin = f"<{self._builder.info.homepage}>, in the form of TensorFlow Datasets"
        features = self._builder.info.features
        self._key = _image_key(dataset, features)
        self._encoded = isinstance(features[self._key], tfds.features.Image)
        *size, channels = features[self._key].shape
        if self._encoded and channels == 4:
            channels = 3  # transparent pixels become white
        height, width = fitted_shape(size[0], size[1], crop, image_size)
        if height is None or width is None or channels is None:
            raise ValueError(
                f"the images of {dataset} differ in size; pass image_size=... to cut and resample "
                "them to squares"
            )
        self.shape = (height, width, channels)
        label: Any = features["label"] if "label" in features else None
        self.num_classes = 0
        if isinstance(label, tfds.features.ClassLabel):
            self.num_classes = label.num_classes or 0
        self.splits = tuple(sorted(self._builder.info.splits))

    def source(self, split: str) -> Source:
        self._check_split(split)
        decoders = None
        if self._encoded:
            decoders = {self._key: tfds.decode.SkipDecoding()}  # Pillow decodes below
        try:
            records = self._builder.as_data_source(split, decoders=decoders)
            check_lengths(self._builder.info.splits, split)
        except Exception as error:  # there is no list of what damaged files make the reader raise
            raise self._damaged(error) from error

        take = checked_reader(records, self._damaged)

        def read(index: int) -> tuple[np.ndarray, int]:
            record = take(index)
            label = record["label"] if self.num_classes else 0
            return self._image(record[self._key], name(index)), label

        def name(index: int) -> str:
            return f"example {index} of {self._builder.info.full_name}"

        return Source(size=len(records), read=read, name=name)

    def _image(self, image: Any, where: str) -> np.ndarray:
        """Return the image of a record, cut and resampled."""
        if self._encoded:
            file = io.BytesIO(image)
            remedy = self._remedy()
            return read_image(file, where, self.shape[2], self._crop, self._size, remedy)
        if self._crop is None and self._size is None:
            return image
        bands = [  # one by one, for Pillow knows no images of 2 or 5 channels
            fit_image(Image.fromarray(np.ascontiguousarray(band)), where, self._crop, self._size)
            for band in np.moveaxis(image, 2, 0)
        ]
        return np.stack(bands, axis=2)

    def _check_split(self, split: str) -> None:
        """Raise a ValueError unless a split, or an expression of splits, can be read."""
        choices = ", ".join(self.splits)
        remedy = f"choose of {choices}, or parts of them such as {self.splits[-1]}[:90%]"
        names = {part.partition("[")[0].strip() for part in str(split).split("+")}
        if not isinstance(split, str) or not names <= set(self.splits):
            raise ValueError(f"unknown split {split!r}; {remedy}")
        try:
            size = self._builder.info.splits[split].num_examples
        except ValueError as error:
            reason = str(error).splitlines()[-1]
            raise ValueError(f"cannot read split {split!r} ({reason}); {remedy}") from error
        if not size:
            raise ValueError(f"split {split!r} is empty; {remedy}")

    def _damaged(self, error: Exception) -> ValueError:
        return damaged(self._builder.data_dir, error, self._name, self._directory)

    def _remedy(self) -> str:
        return anew(self._builder.data_dir, self._name, self._directory)


def checked_reader(
    records: Any, damaged: Callable[[Exception], ValueError]
) -> Callable[[int], dict[str, Any]]:
    """Return what reads a record; `damaged` makes the error of a record that cannot be read."""

    def take(index: int) -> dict[str, Any]:
        try:
            return records[index]
        except Exception as error:  # there is no list of what damaged files make the reader raise
            raise damaged(error) from error

    return take


def check_lengths(splits: Any, split: str) -> None:
    """Raise a ValueError unless the files of a split hold as many records as they should.

    `splits` is the description of the data set, with the number of records of each file.
    """
    for part in {part.partition("[")[0].strip() for part in split.split("+")}:
        info = splits[part]
        for path, expected in zip(info.filepaths, info.shard_lengths, strict=True):
            reader = ArrayRecordReader(os.fspath(path))
            try:
                number = reader.num_records()
            finally:
                reader.close()
            if number != expected:
                raise ValueError(f"{path.name} holds {number} examples, not {expected}")


def data_directory(data_dir: str | None) -> Path:
    """Return the folder of prepared data sets.

    It is the argument, the environment variable TFDS_DATA_DIR, or ~/tensorflow_datasets.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return check_path("data_dir, or TFDS_DATA_DIR,", chosen)


def prepare_command(name: str, directory: Path) -> str:
    """Return the command that prepares a data set."""
    return f"python -m experiments.data.prepare {name} --data_dir={shlex.quote(str(directory))}"


def anew(place: Any, name: str, directory: Path) -> str:
    """Return in words how to prepare a data set anew."""
    return (
        f"delete {place}, and prepare the data set anew with\n"
        f"  rm -r {shlex.quote(str(place))}\n  {prepare_command(name, directory)}"
    )


def damaged(place: Any, error: Exception, name: str, directory: Path) -> ValueError:
    """Return the error that a prepared data set is damaged, with how to prepare it anew."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{place} is damaged ({reason}); {anew(place, name, directory)}")


def find_prepared(name: str, directory: Path) -> tfds.core.DatasetBuilder:
    """Open a data set that lies prepared, for random access, under ``directory``.

    Otherwise raise the errors of `TFDS`.
    """
    base = name.partition("/")[0].partition(":")[0]
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\w.*]+)?", name):
        raise ValueError(f"dataset is {name!r}, expected name, name/config or name/config:version")
    try:
        builder = builder_from_files(name, data_dir=directory)
    except DatasetNotFoundError as error:
        raise _not_found(name, base, directory) from error
    except Exception as error:  # there is no list of what damaged files make the reader raise
        raise damaged(directory / base, error, name, directory) from error
    if tfds.core.FileFormat.ARRAY_RECORD not in builder.info.available_file_formats():
        file_format = builder.info.file_format
        kind = file_format.value if file_format else "unknown"
        raise FileNotFoundError(
            f"{builder.data_dir} holds {kind} files, which cannot "
            "be read at random; remove it, or choose another data_dir, and prepare the data set "
            f"with\n  {prepare_command(name, directory)}"
        )
    return builder


def _not_found(name: str, base: str, directory: Path) -> Exception:
    """Return the error about a data set that is not prepared, or does not exist."""
    catalogue = tfds.list_builders(with_community_datasets=False)
    if base in catalogue:
        return FileNotFoundError(
            f"data set {name} is not prepared in {directory}; prepare it with\n  "
            f"{prepare_command(name, directory)}"
        )
    if (directory / base).is_dir():
        versions = sorted(str(p.parent) for p in (directory / base).rglob("dataset_info.json"))
        return ValueError(
            f"{directory / base} does not hold {name}, or not all of its files; it holds "
            f"{', '.join(versions) or 'no data set'}"
        )
    close = difflib.get_close_matches(base, catalogue, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return ValueError(
        f"{name!r} is neither prepared in {directory} nor in the catalogue of TFDS{hint}"
    )


def _image_key(name: str, features) -> str:
    """Return the name of the feature that holds the images of a data set."""
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
