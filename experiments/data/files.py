"""Data of your own: a folder of images, or arrays in a file."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from .array import open_array
from .array_file import SUFFIXES
from .base import MOST_LEVELS, DataSet, Source, check_split
from .folder import open_folder
from .idx import is_idx_name
from .image_files import SUFFIXES as IMAGES
from .settings import (
    LARGEST_SIDE,
    check_flag,
    check_fraction,
    check_path,
    check_range,
    check_whole,
    printable,
)
from .summary import statistics

TABLES = (".csv", ".tsv", ".txt")


class Files(DataSet):
    """Images below a folder, or the rows of an .npy file, an .npz archive or an IDX file.

    The modules `folder` and `array` say which of them can be read. Which examples validate is
    decided by a hash of their file name or row number, so that it does not change from run to run,
    nor, for the others, when files are added.

    Args:
      path: the folder, or the file.
      labels: for arrays, a second file with the classes of the examples, whole numbers 0..K-1 or
          texts; an .npz may hold them itself, as y.
      cond: for arrays, a second file with the condition of each example, see `condition`; an .npz
        may hold them itself, as cond.
      image_size: resample the largest central square of each image to this many pixels (folders
          only).
      channels: 3 or 1 to convert images to colour or grey; default: colour if any image has
        colours. For arrays, the length of the last axis, where it could be taken for something
        else.
      levels: the number of grey levels of 8-bit images, if it is not 256: pixels are 0..levels-1.
      value_range: for arrays, (low, high): the two values that become -1 and 1, for example (0, 1).
        The model, and its samples, are in [-1, 1] then.
      validation: the fraction of the examples that is held out.
      skip_unreadable: leave out images that cannot be read, with a warning that names them (folders
        only). All images are decoded once for it, each time the folder is opened.

    Raises:
      FileNotFoundError: nothing at ``path``.
      ValueError: an empty folder, images that differ in size, unreadable images (all of them are
        named), an array of another kind, float data that are not finite, constant, far from unit
        scale or not centred; it says which and what to do.
    """

    licence = "that of the user's own data, which this package does not know"
    origin = "files of the user's own"

    def __init__(
        self,
        *,
        path: str,
        labels: str | None = None,
        cond: str | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        levels: int | None = None,
        value_range: tuple[float, float] | None = None,
        validation: float = 0.1,
        skip_unreadable: bool = False,
    ):
        place = _existing("path", path)
        validation = check_fraction("validation", validation)
        check_flag("skip_unreadable", skip_unreadable)
        if image_size is not None:
            image_size = check_whole("image_size", image_size, 1, LARGEST_SIDE)
        if channels is not None:
            channels = check_whole("channels", channels, 1)
        if levels is not None:
            levels = check_whole("levels", levels, 2, MOST_LEVELS)
        if value_range is not None:
            value_range = check_range("value_range", value_range)
        if place.is_dir():
            _check_for_folder(channels, labels, cond, value_range)
            self._all = open_folder(place, image_size, channels, levels or 256, skip_unreadable)
        else:
            _check_array_file(place)
            _check_for_array(place, image_size, skip_unreadable)
            labels_file = _array_beside("labels", labels)
            cond_file = _array_beside("cond", cond)
            self._all = open_array(place, labels_file, cond_file, channels, levels, value_range)
        self.shape = self._all.shape
        self.levels = self._all.levels
        self.num_classes = self._all.num_classes
        self.cond_shape = self._all.cond_shape
        self._rows = split_rows(self._all.keys, validation)
        self.splits = tuple(self._rows)
        if self.levels is None:
            statistics(self, "train")  # refuses what is constant

    def source(self, split: str) -> Source:
        if split == "validation" and split not in self.splits:
            raise ValueError(
                "data.validation is 0, so that no examples are held out and there is no split "
                "'validation': raise data.validation, or name the split train where it is asked "
                "for (--config.train.held_out= for none)"
            )
        check_split(split, self.splits)
        rows = self._rows[split]
        everything = self._all.source
        read_cond = everything.read_cond
        return Source(
            size=len(rows),
            read=lambda i: everything.read(rows[i]),
            name=lambda i: everything.name(rows[i]),
            read_cond=None if read_cond is None else lambda i: read_cond(rows[i]),
        )


def _check_for_folder(
    channels: int | None,
    labels: str | None,
    cond: str | None,
    value_range: tuple[float, float] | None,
) -> None:
    """Raise a ValueError if a setting is given that does not fit a folder of images."""
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
    if labels is not None:
        raise ValueError(
            "labels is for arrays; images of a folder are labelled by the sub-folders that they "
            "lie in"
        )
    if cond is not None:
        raise ValueError(
            "cond is for arrays; save the images of the folder as one array, and the condition of "
            "each beside it: np.savez(path, x=..., cond=...)"
        )
    if value_range is not None:
        raise ValueError("value_range is for arrays; leave it out for a folder of images")


def _check_for_array(place: Path, image_size: int | None, skip_unreadable: bool) -> None:
    """Raise a ValueError if a setting is given that does not fit arrays."""
    if image_size is not None:
        raise ValueError(
            f"image_size resamples the images of a folder, {printable(place)} is an array; "
            "resample it before saving"
        )
    if skip_unreadable:
        raise ValueError(
            f"skip_unreadable is for folders of images, {printable(place)} is an array; leave it "
            "out"
        )


def _existing(name: str, value: Any) -> Path:
    """Return the path that a setting names; raise a FileNotFoundError if nothing is there."""
    place = check_path(name, value)
    if not place.exists():
        raise FileNotFoundError(
            f"no folder or file {printable(place)}; {name} must name a folder of images or an .npy "
            "file"
        )
    return place


def _array_beside(name: str, value: str | None) -> Path | None:
    """Return the array file that a setting names, or None."""
    if value is None:
        return None
    place = _existing(name, value)
    _check_array_file(place)
    return place


def _check_array_file(place: Path) -> None:
    """Raise a ValueError that says how to convert a file that is neither .npy nor .npz."""
    suffix = place.suffix.lower()
    if (suffix in SUFFIXES or is_idx_name(place)) and place.is_file():
        return
    if suffix in IMAGES:
        remedy = f"it is one image: name the folder that holds it, {printable(place.parent)}"
    elif suffix in TABLES:
        remedy = (
            'convert the table: np.save("x.npy", np.loadtxt(path, delimiter=",", dtype="float32"))'
        )
    else:
        remedy = (
            "unpack it, or read it with the library that wrote it and save the examples: "
            'np.save("x.npy", x)'
        )
    raise ValueError(
        f"{printable(place)} is neither a folder nor an .npy file or .npz archive; {remedy}"
    )


def split_rows(keys: list[str], validation: float) -> dict[str, np.ndarray]:
    """Return the row numbers of each split.

    Unless `validation` is 0, neither split is empty.
    """
    if validation == 0:
        return {"train": np.arange(len(keys))}
    if len(keys) < 2:
        raise ValueError("a single example cannot be split; pass validation=0")
    u = np.array([_uniform(key) for key in keys])
    held_out = u < validation
    held_out[u.argmin()] = True
    held_out[u.argmax()] = False
    return {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}


def _uniform(key: str) -> float:
    """Return a number of [0, 1) that belongs to a name, whatever bytes it has."""
    digest = hashlib.sha256(os.fsencode(key)).digest()
    return int.from_bytes(digest[:8]) / 2**64
