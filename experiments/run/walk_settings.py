"""The settings of a walk that is a function: which it has, of which type and in which range."""

import inspect
from typing import Any

from .typed import check_setting

# what a run hands to a walk itself
NO_SETTINGS = ("key", "denoise", "sde", "x", "cond", "index", "sd", "shape")

# Settings of walks whose range is the same wherever they occur: low < value <= high.
RANGES = {
    "start": (0.0, 1.0),
    "end": (0.0, 1.0),
    "rtol": (0.0, 1.0),
    "atol": (0.0, 1.0),
    "first": (0.0, 1.0),
    "safety": (0.0, 1.0),
    "max_steps": (0, 2**31 - 1),
}


def settings_of(function: Any, settings: dict) -> dict:
    """Return the settings of a function without its name, after checking them.

    Raises:
        ValueError: one that it does not have, or that has another type or is out of range.
    """
    name = settings["name"]
    parameters = inspect.signature(function).parameters
    known = {key: p for key, p in parameters.items() if key not in NO_SETTINGS}
    if name == "recommended":
        known = {key: p for key, p in known.items() if key in ("nfe", "stochastic", "end")}
    given = {key: value for key, value in settings.items() if key != "name"}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; it takes {', '.join(known)}")
    needed = [key for key, p in known.items() if p.default is p.empty]
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    for key, value in given.items():
        check_setting(name, key, value, known[key])
        _check_range(name, key, value)
    return given


def _check_range(name: str, key: str, value: Any) -> None:
    if key not in RANGES:
        return
    low, high = RANGES[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low < value <= high:
        raise ValueError(f"{name} needs {low:g} < {key} <= {high:g}, got {value!r}")
