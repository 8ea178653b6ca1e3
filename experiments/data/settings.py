"""Checks of the settings of a data set.

Each raises one ValueError with the value, what was expected and the remedy.
"""

import numbers
import sys
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_SIDE = 8192  # pixels a side that images may be resampled to
LARGEST_SEED = 2**63 - 1
LARGEST_REAL = sys.float_info.max


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int.

    Raise a ValueError unless it is a whole number of at least ``low`` and at most ``high``.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not whole:
        raise ValueError(f"{name} must be a whole number, got {value!r}; write for example {low}")
    number = int(value)
    if number < low:
        raise ValueError(f"need {name} >= {low}, got {number}; raise it")
    if high is not None and number > high:
        raise ValueError(f"need {name} <= {high}, got {number}; lower it")
    return number


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def check_real(name: str, value: Any) -> float:
    """Return ``value`` as a float; raise a ValueError unless it is a finite number."""
    if not _is_real(value) or not -LARGEST_REAL <= value <= LARGEST_REAL:  # an int may be beyond
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def check_fraction(name: str, value: Any) -> float:
    """Return ``value`` as a float; raise a ValueError unless it is a number of [0, 1)."""
    if not _is_real(value) or not 0 <= value < 1:
        raise ValueError(f"need 0 <= {name} < 1, got {value}: it is a fraction of the examples")
    return float(value)


def check_range(name: str, value: Any) -> tuple[float, float]:
    """Return ``value`` as (low, high).

    Raise a ValueError unless it is two finite numbers, the smaller one first.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers such as (0, 1), got {value!r}")
    low, high = (check_real(name, end) for end in value)
    if low >= high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {value!r}")
    return low, high


def check_flag(name: str, value: Any) -> bool:
    """Return ``value``; raise a ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def check_text(name: str, value: Any) -> str:
    """Return ``value``; raise a ValueError unless it is a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a name that is not empty, got {value!r}")
    return value


def check_path(name: str, value: Any) -> Path:
    """Return ``value`` as a path with ~ expanded.

    Raise a ValueError if it is empty or no path, or if ~ has no meaning here.
    """
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{name} must name a file or a folder, got {value!r}; for the current folder write ."
        )
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} is {value!r}, but {error}; write the whole path") from error


def printable(name: object) -> str:
    """Return a file name that can be printed: bytes that are no UTF-8 are written as ``\\xe9``."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
