"""What a data set is: a few facts about its examples, and random access to those of each split.

A raw example is ``{"x": array, "label": int32}``. ``x`` is one image (H, W, C) or one vector (D,):
grey levels 0..levels-1 if the data set has ``levels``, float32 numbers of order one (used as they
are) if ``levels`` is None. Scaling, noise, shuffling and batching are the same for all data sets
and live in `codec` and `pipeline`.

A data set with a ``cond_shape`` has a condition beside each example, that a network can be given:
float32 numbers of order one, used as they are. It is one vector (features,), a set of vectors
(members, features), in which a member of NaN is absent, or one image (H, W, channels).
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from .codec import Codec, codec_of

MOST_LEVELS = 1024  # with more, a grey level and its noise do not fit into a float32; see `codec`


class Example(TypedDict):
    """One raw example."""

    x: np.ndarray  # (H, W, C) or (D,)
    label: np.int32  # 0 for data without labels


@dataclass(frozen=True)
class Source:
    """Read raw examples by index; safe to call from several threads.

    ``read(i)`` returns ``(x, label)``; ``name(i)`` says in an error message which example that is;
    ``read_cond(i)`` returns its condition, where the data set has conditions.
    """

    size: int
    read: Callable[[int], tuple[np.ndarray, int]]
    name: Callable[[int], str] = "example {}".format
    read_cond: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside 0..{self.size - 1}")
        x, label = self.read(int(index))
        whole = np.asarray(label)
        if whole.shape != () or whole.dtype.kind not in "iub":
            raise ValueError(f"{self.name(index)} has label {label!r}, expected a whole number")
        if not 0 <= int(whole) <= np.iinfo(np.int32).max:
            raise ValueError(f"{self.name(index)} has label {label!r}, expected 0, 1, 2, ...")
        return {"x": np.asarray(x), "label": np.int32(whole)}


class DataSet(abc.ABC):
    """A data set: the facts below, and a `Source` for each split.

    Unlabelled data have ``num_classes`` 0 and all labels 0.
    """

    shape: tuple[int, ...]  # of one example: (H, W, C) or (D,)
    levels: int | None  # grey levels 0..levels-1, or None for continuous data
    num_classes: int
    splits: tuple[str, ...]
    cond_shape: tuple[int, ...] | None = None  # of the condition beside an example; None: no such
    licence: str = "not stated"  # under which the data may be used; model cards show it
    origin: str = "not stated"  # where the data come from

    @property
    def codec(self) -> Codec:
        """How raw values become model values."""
        return codec_of(self.levels)

    @abc.abstractmethod
    def source(self, split: str) -> Source:
        """Return the raw examples of a split; raise a ValueError if there is no such split."""


class BadExamples(ValueError):
    """Examples that cannot be used.

    ``problems`` says of each which it is, what is wrong and the remedy.
    """

    SHOWN = 50  # a longer list would bury its first line

    def __init__(self, problems: list[str]):
        self.problems = problems
        lines = problems[: self.SHOWN]
        if len(problems) > self.SHOWN:
            lines = [*lines, f"and {len(problems) - self.SHOWN} more"]
        if len(problems) == 1:
            super().__init__(problems[0])
        else:
            super().__init__("\n  ".join([f"{len(problems)} examples cannot be used:", *lines]))


def check_facts(dataset: DataSet) -> None:
    """Raise a ValueError unless the facts that a data set declares make sense."""
    sizes = dataset.shape if isinstance(dataset.shape, tuple) else (0,)
    if not sizes or any(not isinstance(n, (int, np.integer)) or n < 1 for n in sizes):
        raise ValueError(
            f"{type(dataset).__name__}.shape must be a tuple of whole numbers such as (32, 32, 3) "
            f"or (2,), got {dataset.shape!r}"
        )
    levels = dataset.levels
    whole = isinstance(levels, (int, np.integer)) and 2 <= levels <= MOST_LEVELS
    if levels is not None and not whole:
        raise ValueError(
            f"{type(dataset).__name__}.levels must be None or 2..{MOST_LEVELS}, got {levels!r}; "
            "give finer data as floats"
        )
    if not isinstance(dataset.num_classes, (int, np.integer)) or dataset.num_classes < 0:
        raise ValueError(
            f"{type(dataset).__name__}.num_classes must be 0 (no labels) or their number, got "
            f"{dataset.num_classes!r}"
        )
    cond_shape = dataset.cond_shape
    whole = isinstance(cond_shape, tuple) and all(
        isinstance(n, (int, np.integer)) and n >= 1 for n in cond_shape
    )
    if cond_shape is not None and not (whole and 1 <= len(cond_shape) <= 3):
        raise ValueError(
            f"{type(dataset).__name__}.cond_shape must be None, (features,), (members, features) "
            f"or (height, width, channels), got {cond_shape!r}"
        )


def check_split(split: str, splits: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the choices unless ``split`` is one of ``splits``."""
    if split not in splits:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(splits)}")


def read_checked(
    dataset: DataSet, split: str, source: Source, rows
) -> tuple[np.ndarray, np.ndarray]:
    """Return x (B, *shape) and label (B,) of the given rows of a split's source.

    Raises:
      BadExamples: some cannot be read, are not finite, or have not the shape, the range or the
        labels that the data set declares; all of these are named.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for row in rows:
        try:
            examples.append(source[row])
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise BadExamples(problems)
    if all(example["x"].shape == tuple(dataset.shape) for example in examples):
        x = np.stack([example["x"] for example in examples])
        label = np.array([example["label"] for example in examples], np.int32)
        if _problem(dataset, x, label) is None:
            return x, label
    for row, example in zip(rows, examples, strict=True):
        if problem := _problem(dataset, example["x"][None], np.array([example["label"]])):
            problems.append(f"{source.name(row)} of split {split!r} {problem}")
    raise BadExamples(problems)


def read_conditions(dataset: DataSet, split: str, source: Source, rows) -> np.ndarray | None:
    """Return the conditions (B, *cond_shape), float32, of the given rows of a split's source.

    The result is None if the data set has no conditions.

    Raises:
      BadExamples: some have another shape than the data set declares, or are not finite where no
        member of a set is absent; all of these are named.
    """
    shape = dataset.cond_shape
    if shape is None:
        return None
    if source.read_cond is None:
        raise ValueError(
            f"{type(dataset).__name__} declares conditions of shape {shape}, but the source of "
            f"split {split!r} has no read_cond that reads them"
        )
    conditions = [np.asarray(source.read_cond(int(row)), np.float32) for row in rows]
    problems = []
    for row, cond in zip(rows, conditions, strict=True):
        if problem := condition_problem(cond, shape):
            problems.append(f"the condition of {source.name(row)} of split {split!r} {problem}")
    if problems:
        raise BadExamples(problems)
    return np.stack(conditions)


def condition_problem(cond: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """Return what is wrong with one condition, None if nothing is."""
    if cond.shape != tuple(shape):
        return f"has shape {cond.shape}, expected {tuple(shape)}"
    finite = np.isfinite(cond)
    if len(shape) == 2:  # a set
        absent = np.isnan(cond).all(-1, keepdims=True)
        if absent.all():
            return "is a set without members, all NaN"
        finite |= absent
    if not finite.all():
        return f"holds {cond[~finite][0]}, expected finite numbers"
    return None


def _problem(dataset: DataSet, x: np.ndarray, label: np.ndarray) -> str | None:
    """Return what is wrong with examples (n, *shape) and their labels (n,), None if nothing is."""
    if x.shape[1:] != tuple(dataset.shape):
        return f"has shape {x.shape[1:]}, expected {tuple(dataset.shape)}"
    if x.dtype.kind not in "iufb":
        return f"holds values of type {x.dtype}, expected numbers"
    if problem := dataset.codec.problem(x):
        return problem
    classes = max(dataset.num_classes, 1)
    if label.max() >= classes:
        return f"has label {label.max()}, expected 0..{classes - 1}"
    return None
