"""Settings that make no sense are refused where they are given.

The message has the value, what was expected, and the remedy.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


def known(*values: Any) -> bool:
    """Tell whether nothing in `values` is traced, so that it can be looked at."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def check_numbers(
    expected: str,
    holds: Callable[..., Any],
    *values: Any,
    remedy: str = "",
    infinite: bool = False,
) -> None:
    """Raise a ValueError unless `values` are numbers that `holds` accepts; traced ones pass.

    The message is "need `expected`, got ...".

    Args:
        expected: in words.
        holds: (*values) -> whether they make sense together.
        values: numbers, or arrays of them.
        remedy: added to the message.
        infinite: whether a value may be infinite; NaN never is accepted.
    """
    if not known(*values):
        return
    acceptable = (lambda value: ~np.isnan(value)) if infinite else np.isfinite
    try:
        real = not any(np.iscomplexobj(value) for value in values)
        fine = real and all(np.all(acceptable(value)) for value in values)
        fine = fine and np.all(holds(*values))
    except (TypeError, ValueError):  # not numbers at all
        fine = False
    if not fine:
        got = " and ".join(repr(v) if isinstance(v, str) else str(v) for v in values)
        raise ValueError(f"need {expected}, got {got}" + (f"; {remedy}" if remedy else ""))


def check_increasing(**values: Any) -> None:
    """Raise a ValueError unless the named values are finite and grow strictly from above 0; traced
    values pass.
    """

    def increasing(*numbers):
        pairs = zip((0, *numbers), numbers, strict=False)
        return all(np.all(np.less(low, high)) for low, high in pairs)

    check_numbers(
        f"0 < {' < '.join(values)}", increasing, *values.values(), remedy="all must be finite"
    )


def check_sigma_data(sigma_data: Any) -> None:
    """Raise a ValueError unless a standard deviation of the data is finite and above 0."""
    check_numbers(
        "sigma_data > 0 and finite",
        lambda sd: sd > 0,
        sigma_data,
        remedy="it is the standard deviation of the data, about 0.5 for images in [-1, 1]",
    )
