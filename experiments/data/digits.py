"""Scikit-learn's 1797 handwritten digits: 8x8 pixels, 17 grey levels, 43 writers.

Source: Alpaydin and Kaynak 1998, UCI "optdigits", test set. They come with scikit-learn, so nothing
is downloaded. On first use they are written as a TFDS data set, and read back like any other.
"""

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.read_only_builder import builder_from_files

from .base import DataSet, Source, check_split
from .tfds import data_directory

NAME = "sklearn_digits"
VERSION = "1.0.0"
UNFINISHED = f"{NAME}.incomplete-"  # how the names of folders begin that are being written
# The rows of each split, in scikit-learn's order.
SPLITS = {
    "train": slice(0, 1300),
    "validation": slice(1300, 1500),
    "test": slice(1500, 1797),
}
# The hash of the bytes of all images and then of all labels of a split, so that what is on disk is
# these digits and no others.
SHA256 = {
    "train": "70d8176becfb5f43723a7296a44759bcf8a17f115645b5d9f49b395d43ce80aa",
    "validation": "8eddc8b0d05c7f542229e8f737f4c248fe0582e1afbacfcfb5a3eaac06bf18ff",
    "test": "b4a7debff56737c2306953f23322cca256b5e2e5883474ab63351fca4c96decc",
}


class Digits(DataSet):
    """Real digits of shape (8, 8, 1) and their classes 0..9.

    Splits: the first 1300 to train, the next 200 to choose settings (validation), ``fit``, both of
    them together, for the final model, and the last 297 (test), which come from other writers.

    Args:
      data_dir: where data sets are kept; default: the environment variable TFDS_DATA_DIR, else
          ~/tensorflow_datasets.

    Raises:
      ValueError: what lies there is damaged, or holds other digits; the message says what to
          delete.
      OSError: the folder cannot be written.
    """

    shape = (8, 8, 1)
    levels = 17
    num_classes = 10
    splits = ("train", "validation", "fit", "test")

    def __init__(self, *, data_dir: str | None = None):
        builder: Any = prepare_digits(data_directory(data_dir))
        try:  # 0.2 MB: read them now and keep them
            self._records = {split: list(builder.as_data_source(split)) for split in SPLITS}
            for split, records in self._records.items():
                _check_records(split, records)
        except Exception as error:  # there is no list of what damaged files make the reader raise
            raise _torn(Path(builder.data_dir), error) from error
        self._records["fit"] = self._records["train"] + self._records["validation"]

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        records = self._records[split]

        def read(index: int) -> tuple[np.ndarray, int]:
            record = records[index]
            return record["image"], record["label"]

        return Source(len(records), read)


def prepare_digits(directory: Path) -> tfds.core.DatasetBuilder:
    """Open the data set under ``directory``, writing it first if it is not there.

    It is written aside and renamed into place, so that a process that is killed, or another that
    starts at the same time, leaves either nothing or all of it.
    """
    final = directory / NAME / VERSION
    if not final.exists():
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(directory)
            aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=directory))
        except OSError as error:
            raise OSError(
                f"cannot write to {directory} ({error}); choose another folder with data_dir or "
                "TFDS_DATA_DIR"
            ) from error
        try:
            _write(aside / VERSION)
            os.rename(aside / VERSION, final)
        except OSError:
            if not final.exists():  # otherwise another process was faster, with the same data
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    try:
        return builder_from_files(NAME, data_dir=directory)
    except Exception as error:  # as above
        raise _torn(final, error) from error


def _check_records(split: str, records: list) -> None:
    """Raise a ValueError unless these are the digits of a split, pixel by pixel."""
    rows = SPLITS[split]
    if len(records) != rows.stop - rows.start:
        raise ValueError(f"{split} has {len(records)} examples, not {rows.stop - rows.start}")
    images = np.stack([record["image"] for record in records]).astype(np.uint8)
    labels = np.array([record["label"] for record in records], np.uint8)
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != SHA256[split]:
        raise ValueError(f"the examples of {split} are not those of scikit-learn")


def _clear_leftovers(directory: Path) -> None:
    """Remove what processes that were killed while they wrote left in a folder.

    Writing takes a second, so that nobody writes what is an hour old.
    """
    for place in directory.glob(f"{UNFINISHED}*"):
        if place.is_dir() and time.time() - place.stat().st_mtime > 3600:
            shutil.rmtree(place, ignore_errors=True)


def _torn(directory: Path, error: Exception) -> ValueError:
    """Return the error about a data set that is damaged or not all there."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{directory} is not the complete data set of digits ({reason}); delete it, and it is "
        f"written anew:\n  rm -r {directory}"
    )


def _write(directory: Path) -> None:
    """Write the digits as a TFDS data set."""
    from sklearn.datasets import load_digits  # a second and a half, for what is needed once

    directory.mkdir()
    x, labels = load_digits(return_X_y=True)
    images = np.asarray(x).astype(np.uint8).reshape(-1, *Digits.shape)
    features = tfds.features.FeaturesDict(
        {
            # a Tensor, for an Image would be encoded by TensorFlow
            "image": tfds.features.Tensor(shape=Digits.shape, dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=Digits.num_classes),
        }
    )
    identity = DatasetIdentity(
        name=NAME, version=tfds.core.Version(VERSION), data_dir=str(directory), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity, description=__doc__, features=features, disable_shuffling=True
    )
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=len(images), file_format="array_record"
    )
    writer.initialize_splits(list(SPLITS))
    for split, rows in SPLITS.items():
        examples = [
            {"image": image, "label": int(label)}
            for image, label in zip(images[rows], labels[rows], strict=True)
        ]
        writer.add_examples({split: examples})
    writer.close_all()
