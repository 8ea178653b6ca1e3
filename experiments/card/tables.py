"""Numbers with their errors, and tables, as Markdown."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "not known"
STD_ERROR = "_std_error"
ERROR_DIGITS = 2  # significant digits of an error, and as many decimals of its value


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a table; a sign that would end a cell is escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def number(value: Any) -> str:
    """Return a number as a reader takes it: 1,300, 0.2346, 12,346; "not known" for None."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def with_error(value: Any, error: Any) -> str:
    """Return "value ± error", both to two significant digits of the error."""
    known = isinstance(value, int | float) and isinstance(error, int | float)
    if not known or not math.isfinite(error) or error <= 0:
        return number(value)
    decimals = max(0, ERROR_DIGITS - 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def measured(value: Mapping[str, Any]) -> str:
    """Return a value with what is known of its error.

    `value` has "value", and perhaps "std_error", and the ends of an interval "low" and "high" that
    holds the true value with probability "level".
    """
    text = with_error(value["value"], value.get("std_error"))
    low = value.get("low")
    high = value.get("high")
    if low is None or high is None:
        return text
    level = value.get("level")
    share = f", {level:.0%}" if isinstance(level, float) else ""
    return f"{text} ({number(low)} to {number(high)}{share})"


def scalars(report: Mapping[str, Any], keys: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Return every number in nested dictionaries as text, by the keys that lead to it.

    A dictionary with a "value" is one number with its error; what else it holds follows. A number
    "NAME" has the error "NAME_std_error", where there is one. Lists are left out, as they are no
    single numbers.
    """
    found: dict[tuple[str, ...], str] = {}
    parts = dict(report)
    if isinstance(parts.get("value"), int | float):
        found[keys] = measured(parts)
        for name in ("value", "std_error", "low", "high", "level"):
            parts.pop(name, None)
    for name, value in parts.items():
        inner = (*keys, str(name))
        if isinstance(value, Mapping):
            found |= scalars(value, inner)
        elif name.endswith(STD_ERROR) and name.removesuffix(STD_ERROR) in parts:
            continue  # it stands beside its number
        elif value is None or isinstance(value, int | float):
            found[inner] = with_error(value, parts.get(f"{name}{STD_ERROR}"))
    return found


def in_code(text: str) -> list[str]:
    """Return a block of code."""
    return ["```", text, "```"]
