"""Conditions beside the examples of an array: which arrays can be conditions."""

import numpy as np

from .base import condition_problem
from .streaming import evenly_spaced, parts
from .value_range import LARGEST, SMALLEST_SD

EXPECTED = (
    "expected floats (N, features), (N, members, features), or (N, H, W, channels) of the height "
    "and width of the examples"
)
LOOKED_AT = 10_000  # conditions whose scale is measured


def check_conditions(cond: np.ndarray, count: int, shape: tuple[int, ...], place: str) -> None:
    """Raise a ValueError unless an array holds one condition for each of some examples.

    Args:
      cond: the array.
      count: the number of examples.
      shape: of an example.
      place: the file, for messages.
    """
    holds = f"{place} holds conditions of type {cond.dtype} and shape {cond.shape}"
    if cond.dtype.kind != "f":
        raise ValueError(
            f"{holds}; {EXPECTED}: save cond.astype(np.float32), scaled to about -1..1; class "
            "labels are saved as y"
        )
    if cond.ndim not in (2, 3, 4) or 0 in cond.shape:
        raise ValueError(f"{holds}; {EXPECTED}; cond[:, None] makes vectors of single numbers")
    if len(cond) != count:
        raise ValueError(f"{holds}; expected one for each of the {count} examples")
    if cond.ndim == 4 and cond.shape[1:3] != shape[:2]:
        raise ValueError(
            f"{holds}; {EXPECTED}, {shape[:2]}: resample them to that size before saving"
        )
    for rows in parts(np.arange(count), cond.shape[1:]):
        block = cond[rows[0] : rows[-1] + 1]
        if np.isfinite(block).all():
            continue
        for row, one in zip(rows, block, strict=True):
            if problem := condition_problem(one, cond.shape[1:]):
                raise ValueError(
                    f"the condition of row {row} of {place} {problem}; repair or remove it"
                )
    _check_scale(np.asarray(cond[evenly_spaced(count, LOOKED_AT)], np.float64), holds)


def _check_scale(cond: np.ndarray, holds: str) -> None:
    """Raise a ValueError about numbers that were clearly not meant as they are."""
    features = cond.reshape(-1, cond.shape[-1])
    largest = np.nanmax(np.abs(features), axis=0)
    sd = np.nanstd(features, axis=0)
    wrong = (largest > LARGEST) | ((sd > 0) & (sd < SMALLEST_SD))
    if wrong.any():
        feature = int(np.argmax(wrong))
        raise ValueError(
            f"{holds}; number {feature} of each has standard deviation {sd[feature]:.3g} and reaches "
            f"{largest[feature]:.3g}; conditions are used as they are, so that each number should "
            "have a standard deviation of about 1: rescale it"
        )
