"""What a data set is: a few facts about its examples, and random access to the raw examples of each split.

A raw example is ``{"x": array, "label": int32}``. ``x`` is one image (H, W, C) or one vector (D,): grey levels 0..levels-1 if the data
set has ``levels``, float32 numbers of order one (used as they are) if ``levels`` is None. Scaling, noise, shuffling and batching are the
same for all data sets and live in `scaling` and `pipeline`.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np


class Example(TypedDict):
    x: np.ndarray
    label: np.int32


@dataclass(frozen=True)
class Source:
    """Read raw examples by index; safe to call from several threads.

    ``read(i)`` returns ``(x, label)``; ``name(i)`` says in an error message which example that is.
    """

    size: int
    read: Callable[[int], tuple[np.ndarray, int]]
    name: Callable[[int], str] = "example {}".format

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside 0..{self.size - 1}")
        x, label = self.read(int(index))
        return {"x": x, "label": np.int32(label)}


class DataSet(abc.ABC):
    """A data set: the facts below, and a `Source` for each split. Unlabelled data have ``num_classes`` 0 and all labels 0."""

    shape: tuple[int, ...]  # of one example: (H, W, C) or (D,)
    levels: int | None  # grey levels 0..levels-1, or None for continuous data
    num_classes: int
    splits: tuple[str, ...]

    @abc.abstractmethod
    def source(self, split: str) -> Source:
        """Return the raw examples of a split; ValueError if there is no such split."""


def check_split(split: str, splits: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the choices unless ``split`` is one of ``splits``."""
    if split not in splits:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(splits)}")


def read_checked(
    dataset: DataSet, split: str, source: Source, rows
) -> tuple[np.ndarray, np.ndarray]:
    """Return (x (B, *shape), label (B,)) of the given rows of a split's source.

    Raises:
      ValueError: an example does not have the shape or the range that the data set declares, or is not finite; it names the example.
    """
    examples = [source[row] for row in rows]
    for row, example in zip(rows, examples, strict=True):
        if example["x"].shape != dataset.shape:
            raise ValueError(
                f"{source.name(row)} of split {split!r} has shape {example['x'].shape}, expected {dataset.shape}"
            )
    x = np.stack([example["x"] for example in examples])
    if dataset.levels is None:
        good, expected = np.isfinite(x), "finite numbers"
    else:
        good, expected = (x >= 0) & (x < dataset.levels), f"grey levels 0..{dataset.levels - 1}"
    if not good.all():
        first = tuple(np.argwhere(~good)[0])
        raise ValueError(
            f"{source.name(rows[first[0]])} of split {split!r} holds {x[first]}, expected {expected}; repair or remove it"
        )
    return x, np.array([example["label"] for example in examples], np.int32)
