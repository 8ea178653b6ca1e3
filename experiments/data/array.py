"""Arrays as one list of examples.

- uint8 (N, H, W, C) or (N, H, W): images with 256 grey levels, or as many as ``levels`` says; bool:
  with 2.
- float (N, D) or (N, H, W, C): continuous data, used as they are. They should have a standard
  deviation of about 1, and images should lie around 0: those on one side of it, such as [0, 1], are
  refused; ``value_range=(0, 1)`` maps these two values to -1 and 1.
- numbers of any type with ``value_range=(low, high)``: continuous data, mapped so on reading.
"""

from pathlib import Path

import numpy as np

from .array_file import load_arrays
from .array_shape import example_shape
from .base import Source
from .condition import check_conditions
from .folder import Collection
from .labels import class_labels
from .settings import printable
from .value_range import check_grey_levels, check_inside, check_scale, measure_range


def open_array(
    path: Path,
    labels: Path | None = None,
    cond: Path | None = None,
    channels: int | None = None,
    levels: int | None = None,
    value_range: tuple[float, float] | None = None,
) -> Collection:
    """Open the arrays at ``path``, and labels and conditions there or at ``labels`` and ``cond``.

    The other settings are those of `Files`.

    Raises:
      ValueError: the arrays are none of the kinds above.
    """
    place = printable(path)
    x, own_labels, own_cond = load_arrays(path)
    shape = example_shape(place, x, channels, any_type=value_range is not None)
    grey_levels = _grey_levels(place, x, levels, value_range)
    if grey_levels is None:
        _check_values(place, x, value_range, image=len(shape) == 3)
    y = own_labels if labels is None else load_arrays(labels).x
    numbers = np.zeros(len(x), np.int32)
    classes = 0
    if y is not None:
        numbers, classes = class_labels(y, len(x), printable(labels or path))
    conditions = own_cond if cond is None else load_arrays(cond).x
    if conditions is not None:
        check_conditions(conditions, len(x), shape, printable(cond or path))

    def read(index: int) -> tuple[np.ndarray, int]:
        example = np.asarray(x[index]).reshape(shape)
        if grey_levels is not None:
            example = example.astype(np.uint8)
        elif value_range is None:
            example = example.astype(np.float32)
        else:
            example = _mapped(example, value_range)
        return example, int(numbers[index])

    return Collection(
        shape=shape,
        levels=grey_levels,
        num_classes=classes,
        source=Source(
            len(x), read, "row {}".format, None if conditions is None else conditions.__getitem__
        ),
        keys=[str(index) for index in range(len(x))],
        cond_shape=None if conditions is None else conditions.shape[1:],
    )


def _check_values(
    place: str, x: np.ndarray, value_range: tuple[float, float] | None, *, image: bool
) -> None:
    """Raise a ValueError about continuous data that were clearly not meant as they are."""
    values = measure_range(place, x)
    if value_range is not None:
        check_inside(place, values, value_range)
    elif values.low < values.high:  # `statistics` refuses what is constant, and says so
        check_scale(place, image, values)


def _mapped(x: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Return values, of which the two of ``value_range`` become -1 and 1."""
    low, high = value_range
    unit = (x.astype(np.float64) - low) / (high - low)
    return (2 * unit - 1).astype(np.float32)


def _grey_levels(
    place: str, x: np.ndarray, levels: int | None, value_range: tuple[float, float] | None
) -> int | None:
    """Return the number of grey levels, or None for continuous data."""
    discrete = x.dtype.kind in "ub" and value_range is None
    if not discrete and levels is not None:
        raise ValueError(
            f"data.levels is for uint8 images, {place} is read as continuous data; leave out levels"
        )
    if x.dtype == np.bool_ and discrete:
        return check_grey_levels(place, x, 2 if levels is None else levels)
    return check_grey_levels(place, x, levels) if discrete else None
