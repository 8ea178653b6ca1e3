"""What a setting of a foreign configuration may be.

Whatever else stands there is named, with the file that it stands in.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import RunError
from .reading import shown

MOST = 10**9


class Expected(NamedTuple):
    """The values that a setting may have: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Expected:
    """Return what a whole number from `low` to `high` is."""

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Expected(f"a whole number from {low} to {high}", holds)


def real(low: float, high: float = MOST, *, above: bool = False) -> Expected:
    """Return what a finite number is; `above`: larger than `low`, not equal to it."""

    def holds(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return math.isfinite(value) and (low < value if above else low <= value) and value <= high

    return Expected(f"a number {'above' if above else 'from'} {low} to {high}", holds)


def several(each: Expected, most: int, *, least: int = 0) -> Expected:
    """Return what a list of `least` to `most` values is, each as `each` says."""

    def holds(value: Any) -> bool:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            return False
        return all(each.holds(part) for part in value)

    return Expected(f"a list of {least} to {most}, each {each.words}", holds)


def optional(expected: Expected) -> Expected:
    """Return what such a value, or None, is."""
    return Expected(
        f"{expected.words}, or none", lambda value: value is None or expected.holds(value)
    )


def either(first: Expected, second: Expected) -> Expected:
    """Return what a value of one of two kinds is."""
    return Expected(
        f"{first.words}, or {second.words}",
        lambda value: first.holds(value) or second.holds(value),
    )


TEXT = Expected("a name", lambda value: isinstance(value, str))
BOOLEAN = Expected("true or false", lambda value: isinstance(value, bool))
ANYTHING = Expected("anything", lambda value: True)
POSITIVE = real(0.0, above=True)
COUNT = whole(1, 100_000)
# of networks
SIZE = whole(1, 16_384)
CHANNELS = whole(1, 65_536)
BLOCKS = whole(1, 1000)
LEVELS = 16  # the most that a network can halve an image
DROPOUT = Expected("a number from 0 to below 1", lambda value: real(0.0).holds(value) and value < 1)
KERNEL = several(real(-1e6, 1e6), 64, least=1)
MULTIPLIERS = several(real(0.0, 1024, above=True), LEVELS, least=1)


def check(settings: Any, expected: Mapping[str, Expected], where: str = "") -> None:
    """Check the settings that are read.

    Args:
        settings: by name; those that nothing here reads are passed over.
        expected: what each of the settings that are read may be.
        where: what the settings are part of, such as "model.".

    Raises:
        RunError: one is missing, or is something else; the message has its name, its value and
            what was expected.
    """
    if not isinstance(settings, Mapping):
        part = where.rstrip(".") or "the configuration"
        raise RunError(f"{part} is {shown(settings)}, expected settings by name")
    for name, value in expected.items():
        if name not in settings:
            raise RunError(f"{where}{name} is missing, expected {value.words}")
        if not value.holds(settings[name]):
            raise RunError(f"{where}{name} is {shown(settings[name])}, expected {value.words}")
