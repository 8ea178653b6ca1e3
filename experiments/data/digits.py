"""Scikit-learn's 1797 handwritten digits: 8x8 pixels, 17 grey levels, 43 writers.

Source: Alpaydin and Kaynak 1998, UCI "optdigits", test set. They come with scikit-learn, so nothing
is downloaded. On first use they are written as a TFDS data set, and read back like any other.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from .base import DataSet, Source, check_split
from .prepared import Labelled, Recipe, open_prepared, torn, write_images
from .tfds import data_directory

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
RECIPE = Recipe(
    name="sklearn_digits",
    version="1.0.0",
    title="digits",
    description=__doc__,
    shape=(8, 8, 1),
    num_classes=10,
)


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

    shape = RECIPE.shape
    levels = 17
    num_classes = RECIPE.num_classes
    splits = ("train", "validation", "fit", "test")
    licence = "CC BY 4.0"
    origin = (
        "Alpaydin and Kaynak 1998, UCI optdigits, test set, "
        "<https://doi.org/10.24432/C50P49>; as in scikit-learn"
    )

    def __init__(self, *, data_dir: str | None = None):
        builder: Any = open_prepared(data_directory(data_dir), RECIPE, _write)
        try:  # 0.2 MB: read them now and keep them
            self._records = {split: list(builder.as_data_source(split)) for split in SPLITS}
            for split, records in self._records.items():
                _check_records(split, records)
        except Exception as error:  # there is no list of what damaged files make the reader raise
            raise torn(Path(builder.data_dir), RECIPE, error) from error
        self._records["fit"] = self._records["train"] + self._records["validation"]

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        records = self._records[split]

        def read(index: int) -> tuple[np.ndarray, int]:
            record = records[index]
            return record["image"], record["label"]

        return Source(len(records), read)


def _check_records(split: str, records: list) -> None:
    """Raise a ValueError unless these are the digits of a split, pixel by pixel."""
    rows = SPLITS[split]
    if len(records) != rows.stop - rows.start:
        raise ValueError(f"{split} has {len(records)} examples, not {rows.stop - rows.start}")
    images = np.stack([record["image"] for record in records]).astype(np.uint8)
    labels = np.array([record["label"] for record in records], np.uint8)
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != SHA256[split]:
        raise ValueError(f"the examples of {split} are not those of scikit-learn")


def _write(directory: Path) -> None:
    """Write the digits as a TFDS data set."""
    from sklearn.datasets import load_digits  # a second and a half, for what is needed once

    x, labels = load_digits(return_X_y=True)
    images = np.asarray(x).astype(np.uint8).reshape(-1, *Digits.shape)
    splits = {split: Labelled(images[rows], labels[rows]) for split, rows in SPLITS.items()}
    write_images(directory, RECIPE, splits)
