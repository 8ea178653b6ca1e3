"""What all readers of foreign files keep to.

An error names the file, and nothing grows beyond what the file holds.
"""

import json
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RunError

# What reading may make of a file: so many times its own size, and some bytes more for the small
# ones.
GROWTH = 20
FREE = 2**26
LAST_STEP = 2**31 - 1  # training counts its steps in int32
NUMBERS = "fiub"  # kinds of NumPy types that a weight can have


class _Short(reprlib.Repr):
    """Short texts, and short ways to them: what is not known to be small is only named."""

    def repr_instance(self, x: Any, level: int) -> str:
        """Return a short text for a value of any other class."""
        if isinstance(x, dict):
            return self.repr_dict(x, level)
        if isinstance(x, np.ndarray):
            return f"<array of shape {x.shape} of {x.dtype}>"
        small = x is None or isinstance(x, bool | float | complex | bytes | np.generic | np.dtype)
        return super().repr_instance(x, level) if small else f"<{type(x).__name__}>"


_short = _Short()
_short.maxlevel = 2
_short.maxstring = _short.maxother = 80


def shown(value: Any) -> str:
    """Return a short text for any value, also for one that is nested without end."""
    try:
        return _short.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"<{type(value).__name__}>"


class Budget:
    """The bytes that reading a file of `size` bytes may still take up."""

    def __init__(self, size: int):
        self.size = size
        self.left = GROWTH * size + FREE

    def spend(self, amount: int, what: str) -> None:
        """Take `amount` bytes for `what`; raise a RunError if that is more than there are left."""
        if amount < 0 or amount > self.left:
            raise RunError(
                f"{what} would take {amount:.3g} bytes, far more than a file of {self.size} bytes "
                "can hold; it is damaged, or made to fill the memory"
            )
        self.left -= amount


@contextmanager
def reading(path: Any, kind: str) -> Iterator[None]:
    """Read `path` as a file of some `kind`: whatever goes wrong becomes one RunError that names it.

    Only for calls that parse a file: a damaged one can make a parser fail in any way. That a file
    is not there, or may not be read, stays an OSError.
    """
    try:
        yield
    except RunError as error:
        text = str(error)
        if str(path) in text:
            raise
        raise RunError(f"{path}: {text}") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = f"{name}{str(error)[:200]}"
        raise RunError(f"{path} is no {kind}, or it is damaged: {reason}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        RunError: it is no JSON, or holds something else than one object.
    """
    with reading(path, "JSON file"):
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise RunError(f"the file holds {shown(value)}, expected settings by name, {{...}}")
    return value


def checked_step(value: Any) -> int:
    """Return the number of training steps that a file states.

    Raises:
        RunError: it is no whole number that can be one.
    """
    number = value
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        number = value.item()
    if isinstance(number, int | float) and not isinstance(number, bool):
        if 0 <= number <= LAST_STEP and number == int(number):
            return int(number)
    raise RunError(
        f"the training step is {shown(value)}, expected a whole number from 0 to {LAST_STEP}"
    )


def checked_weights(weights: Any, what: str) -> dict[str, np.ndarray]:
    """Return arrays of numbers by name.

    Raises:
        RunError: there are none, or one of them is something else; it is named.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise RunError(f"{what} is {shown(weights)}, expected arrays by name")
    for name, value in weights.items():
        if not isinstance(name, str):
            raise RunError(f"{what} has the key {shown(name)}, expected the name of an array")
        if not is_weight(value):
            raise RunError(f"{what} holds {shown(value)} for {name}, expected an array of numbers")
    return dict(weights)


def is_weight(value: Any) -> bool:
    """Return whether a value is an array of real numbers."""
    if not isinstance(value, np.ndarray | np.generic):
        return False
    # the narrow types of ml_dtypes are of kind "V"
    return value.dtype.kind in NUMBERS or value.dtype.names is None and "float" in value.dtype.name
