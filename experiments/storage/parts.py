"""The samples of a job, in parts: a file of raw values for every batch of them.

The part `batch_0000064.npz` holds, from sample 64 on, "x" (samples, ...): uint8 for images of at
most 256 grey levels, int32 for more, float32 for anything else; "nfe", the network evaluations of
each; and "seconds", those spent on all of them. It may hold fewer samples than a batch has, and is
written anew when more are drawn.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import RunError
from .jobs import save_arrays
from .reading import read_arrays


class Part(NamedTuple):
    """Samples with consecutive numbers."""

    x: np.ndarray  # (samples, ...) raw values
    nfe: int
    seconds: float

    def with_more(self, more: "Part") -> "Part":
        """Return this part with the samples that come after it."""
        return Part(
            x=np.concatenate([self.x, more.x]),
            nfe=max(self.nfe, more.nfe),
            seconds=self.seconds + more.seconds,
        )


@dataclass(frozen=True)
class Parts:
    """The samples 0..number-1 of a job, which are read a part at a time."""

    folder: Path
    number: int
    size: int  # samples of a part

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the raw values (samples, ...) of part after part.

        Raises:
            RunError: a part is missing or damaged.
        """
        for first in range(0, self.number, self.size):
            path = path_of(self.folder, first)
            arrays = read_arrays(path, {"x"})
            count = min(self.size, self.number - first)
            if arrays is None or len(arrays["x"]) < count:
                raise RunError(f"{path} is damaged; the same command draws these samples anew")
            yield arrays["x"][:count]

    def first(self, count: int) -> np.ndarray:
        """Return the first `count` samples, or all if there are fewer."""
        count = min(count, self.number)
        return np.concatenate(list(replace(self, number=count)))

    def whole(self) -> np.ndarray:
        """Return all samples (number, ...), which need memory for all."""
        return self.first(self.number)

    def ranges(self) -> Iterator[np.ndarray]:
        """Yield the numbers of the samples of each part."""
        for first in range(0, self.number, self.size):
            yield np.arange(first, min(first + self.size, self.number))


def path_of(folder: Path, first: int) -> Path:
    """Return the file of the part that begins with the sample `first`."""
    return folder / f"batch_{first:07d}.npz"


def save_part(path: Path, part: Part) -> None:
    """Write a part in one piece."""
    save_arrays(path, x=part.x, nfe=np.asarray(part.nfe), seconds=np.asarray(part.seconds))


def stored_part(path: Path, like: np.ndarray) -> Part:
    """Return what is stored of a part.

    It is empty where there is no file, and, after a message, where the file is damaged.

    Args:
        path: the file.
        like: no samples (0, ...), of the shape and the type of those that belong there.
    """
    nothing = Part(x=like, nfe=0, seconds=0.0)
    if not path.exists():
        return nothing
    arrays = read_arrays(path, {"x", "nfe", "seconds"})
    if arrays is None or not _alike(arrays["x"], like):
        print(f"{path} is damaged; drawing these samples anew", file=sys.stderr)
        return nothing
    return Part(x=arrays["x"], nfe=int(arrays["nfe"]), seconds=float(arrays["seconds"]))


def _alike(x: np.ndarray, like: np.ndarray) -> bool:
    """Tell whether an array can hold such samples."""
    return x.dtype == like.dtype and x.shape[1:] == like.shape[1:] and bool(np.isfinite(x).all())
