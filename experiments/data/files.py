"""Data of your own: a folder of images, or an .npy file."""

import hashlib
from pathlib import Path

import numpy as np

from .array import open_array
from .base import DataSet, Source, check_split
from .folder import open_folder
from .measure import statistics


class Files(DataSet):
    """Images below a folder (see `folder`) or the rows of an .npy file (see `array`).

    Which examples validate is decided by a hash of their file name or row number, so that it does not change from run to run, nor, for
    the others, when files are added.

    Args:
      path: the folder, or the file.
      image_size: resample the largest central square of each image to this many pixels (folders only).
      channels: 3 or 1 to convert images to colour or grey (folders only); default: colour if any image has colours.
      validation: the fraction of the examples that is held out.

    Raises:
      FileNotFoundError: nothing at ``path``.
      ValueError: an empty folder, images that differ in size, an unreadable image, an array of another kind, float data that are not
        finite, constant, or far from unit scale; it says which and what to do.
    """

    def __init__(
        self,
        *,
        path: str,
        image_size: int | None = None,
        channels: int | None = None,
        validation: float = 0.1,
    ):
        place = Path(path).expanduser()
        if not place.exists():
            raise FileNotFoundError(
                f"no folder or file {place}; path must name a folder of images or an .npy file"
            )
        if not 0 <= validation < 1:
            raise ValueError(f"need 0 <= validation < 1, got {validation}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"need image_size >= 1, got {image_size}")
        if place.is_dir():
            self._all = open_folder(place, image_size, channels)
        elif place.suffix != ".npy":
            raise ValueError(f"{place} is neither a folder nor an .npy file")
        elif image_size is not None:
            raise ValueError(
                f"image_size resamples the images of a folder, {place} is an array; resample it before saving"
            )
        else:
            self._all = open_array(place, channels)
        self.shape, self.levels, self.num_classes = (
            self._all.shape,
            self._all.levels,
            self._all.num_classes,
        )
        self._rows = _split(self._all.keys, validation)
        self.splits = tuple(self._rows)
        if self.levels is None:
            self._check_unit_scale(place)

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        rows, everything = self._rows[split], self._all.source
        return Source(
            len(rows), lambda i: everything.read(rows[i]), lambda i: everything.name(rows[i])
        )

    def _check_unit_scale(self, place: Path) -> None:
        """Refuse what was clearly not meant, such as grey levels saved as floats: continuous data are used unscaled."""
        found = statistics(self, "train")
        if max(-found.min, found.max) > 20 or found.sd < 1e-2:
            raise ValueError(
                f"{place} holds floats in {found.min:.3g}..{found.max:.3g} with standard deviation {found.sd:.3g}; floats are used as they "
                "are and should have a standard deviation of about 1: rescale them, or save images as uint8"
            )


def _split(keys: list[str], validation: float) -> dict[str, np.ndarray]:
    """Return the row numbers of each split; a validation split that is asked for is never empty, nor is the other one."""
    if validation == 0:
        return {"train": np.arange(len(keys))}
    if len(keys) < 2:
        raise ValueError("a single example cannot be split; pass validation=0")
    u = np.array(
        [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64 for key in keys]
    )
    held_out = u < validation
    held_out[u.argmin()], held_out[u.argmax()] = True, False
    return {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}
