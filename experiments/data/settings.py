"""Checks of the settings of a data set: one message with the value, what was expected and the remedy."""

import math
import numbers
from pathlib import Path

import numpy as np

LARGEST_SIDE = 8192  # pixels a side that images may be resampled to
LARGEST_SEED = 2**63 - 1


def check_whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int; ValueError unless it is a whole number of at least ``low`` and at most ``high``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not whole:
        raise ValueError(f"{name} must be a whole number, got {value!r}; write for example {low}")
    number = int(value)  # pyright: ignore[reportArgumentType]
    if number < low:
        raise ValueError(f"need {name} >= {low}, got {number}; raise it")
    if high is not None and number > high:
        raise ValueError(f"need {name} <= {high}, got {number}; lower it")
    return number


def check_real(name: str, value: object) -> float:
    """Return ``value`` as a float; ValueError unless it is a finite number."""
    real = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not real or not math.isfinite(float(value)):  # pyright: ignore[reportArgumentType]
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)  # pyright: ignore[reportArgumentType]


def check_fraction(name: str, value: object) -> float:
    """Return ``value`` as a float; ValueError unless it is a number of [0, 1)."""
    real = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not real or not 0 <= float(value) < 1:  # pyright: ignore[reportArgumentType]
        raise ValueError(f"need 0 <= {name} < 1, got {value}: it is a fraction of the examples")
    return float(value)  # pyright: ignore[reportArgumentType]


def check_range(name: str, value: object) -> tuple[float, float]:
    """Return ``value`` as (low, high); ValueError unless it is two finite numbers, the smaller one first."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers such as (0, 1), got {value!r}")
    low, high = (check_real(name, end) for end in value)
    if low >= high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {value!r}")
    return low, high


def check_flag(name: str, value: object) -> bool:
    """Return ``value``; ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def check_text(name: str, value: object) -> str:
    """Return ``value``; ValueError unless it is a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a name that is not empty, got {value!r}")
    return value


def check_path(name: str, value: object) -> Path:
    """Return ``value`` as a path with ~ expanded; ValueError if it is empty or no path, or if ~ has no meaning here."""
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
