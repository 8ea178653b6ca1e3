"""Checks of a network's settings, before anything is built.

Each raises a ValueError with the value and what was expected.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise a ValueError unless the value of the setting `name` is one of the choices."""
    names = list(choices)
    if value not in names:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(names)}")


def check_at_least(low: float, **settings: float) -> None:
    """Raise a ValueError unless each of the named settings is a finite number of at least `low`."""
    for name, value in settings.items():
        if not low <= value < math.inf:
            raise ValueError(f"need {name} >= {low:g}, got {value}")


def check_above(low: float, **settings: float) -> None:
    """Raise a ValueError unless each of the named settings is a finite number above `low`."""
    for name, value in settings.items():
        if not low < value < math.inf:
            raise ValueError(f"need {name} > {low:g}, got {value}")


def check_classes(num_classes: int) -> None:
    """Raise a ValueError unless `num_classes` can be a number of classes."""
    if num_classes < 0:
        raise ValueError(f"need num_classes >= 0 (0 = no labels), got {num_classes}")


def check_dropout(dropout: float) -> None:
    """Raise a ValueError unless `dropout` is a fraction; 1 would leave nothing."""
    if not 0 <= dropout < 1:
        raise ValueError(f"need 0 <= dropout < 1, got {dropout}")


def check_widths(nf: int, ch_mult: Sequence[float]) -> None:
    """Raise a ValueError unless every level has at least one channel."""
    if nf < 1 or not all(0 < m < math.inf and round(nf * m) >= 1 for m in ch_mult):
        raise ValueError(
            "need nf >= 1 and a multiple of it above 0 for each level, "
            f"got nf = {nf} and ch_mult = {tuple(ch_mult)}"
        )


def check_image_shape(shape: tuple[int, ...], levels: int, pad: int | None = None) -> None:
    """Raise a ValueError unless `shape` is an image that can be halved levels - 1 times.

    Args:
        shape: expected (height, width, channels), with the border.
        levels: the number of resolutions.
        pad: the border that the network has put around the image; None: it can put none.
    """
    if len(shape) != 3:
        raise ValueError(
            f"UNet needs shape (height, width, channels), got {shape}; use MLP for vectors"
        )
    if levels < 1:
        raise ValueError(
            "ch_mult is empty; give one channel multiplier for each level, such as (1, 2)"
        )
    factor = 2 ** (levels - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"images of shape {shape} cannot be halved {levels - 1} times "
            f"({levels} entries in ch_mult): height and width must be multiples of {factor}; "
            f"pad or crop the images, or shorten ch_mult{_border_remedy(shape, factor, pad)}"
        )


def _border_remedy(shape: tuple[int, ...], factor: int, pad: int | None) -> str:
    """Return the border that would help, as the end of a message; "" if none would."""
    if pad is None:
        return ""
    inside = (shape[0] - 2 * pad, shape[1] - 2 * pad)
    for border in range(1, factor):
        if all((size + 2 * border) % factor == 0 for size in inside):
            return f", or let the network put a border around them: pad={border} (config.net.pad)"
    return ""


def check_attention(resolutions: Iterable[int], heights: Sequence[int]) -> None:
    """Check the heights at which attention shall stand.

    Those of larger images, or of levels that this network does not have, are passed over, so that
    one setting serves several networks. A height that halving this image never gives has no effect,
    and a warning says so.

    Args:
        resolutions: the heights at which attention shall stand.
        heights: those of the levels, from the finest to the coarsest.

    Raises:
        ValueError: a height is below 1.
    """
    for height in resolutions:
        check_at_least(1, attn_resolutions=height)
        halved = {heights[0] >> level for level in range(heights[0].bit_length())}
        if height <= heights[0] and height not in halved:
            warnings.warn(
                f"attn_resolutions has {height}, but the levels have heights "
                f"{', '.join(map(str, heights))}: no attention is added there",
                stacklevel=3,
            )


def check_sigmas(sigmas: Sequence[float] | None) -> None:
    """Raise a ValueError unless `sigmas` is a geometric sequence (first, last, number), or None."""
    if sigmas is None:
        return
    if len(sigmas) != 3 or not all(0 < s < math.inf for s in sigmas) or sigmas[2] < 2:
        raise ValueError(
            "need sigmas = (first, last, number), above 0 and with two or more of them, "
            f"got {tuple(sigmas)}"
        )
