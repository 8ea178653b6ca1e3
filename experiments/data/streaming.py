"""A split in blocks of raw examples.

What is computed over a whole split needs the memory of one block then.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .base import DataSet, read_checked

VALUES = 2**20  # numbers in a block: 1 MB of grey levels, 8 MB of float64


class Block(NamedTuple):
    """Some examples of a split, as they are stored."""

    rows: np.ndarray  # (n,) their places in the split
    x: np.ndarray  # (n, *shape) raw values: grey levels, or floats
    label: np.ndarray  # (n,) int32


def evenly_spaced(size: int, limit: int) -> np.ndarray:
    """Return up to ``limit`` of the rows 0..size-1, in order, the first and the last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, limit)).astype(int))


def parts(rows: np.ndarray, shape: tuple[int, ...], values: int = VALUES) -> Iterator[np.ndarray]:
    """Yield the rows in parts whose examples, of the given shape, hold about ``values`` numbers."""
    count = max(1, values // int(np.prod(shape)))
    for first in range(0, len(rows), count):
        yield rows[first : first + count]


def blocks(
    dataset: DataSet, split: str, rows: np.ndarray | None = None, values: int = VALUES
) -> Iterator[Block]:
    """Yield rows of a split (None: all of them), in order, in blocks of about ``values`` numbers.

    Raises:
      BadExamples: examples of a block that are not what the data set declares; see
          `base.read_checked`.
    """
    source = dataset.source(split)
    rows = np.arange(len(source)) if rows is None else np.asarray(rows)
    for part in parts(rows, dataset.shape, values):
        x, label = read_checked(dataset, split, source, part)
        yield Block(rows=part, x=x, label=label)
