"""Which values an array of images or vectors may hold."""

import math
from typing import NamedTuple

import numpy as np

from .streaming import parts

LARGEST = 20.0  # no centred data of standard deviation about 1 reach farther
SMALLEST_SD = 1e-2
ONE_SIDED = 0.1  # images whose range goes less than this part of itself beyond 0 are not centred
FEW_LEVELS = 32  # 8-bit images that use only so many are meant otherwise


class ValueRange(NamedTuple):
    """The smallest and the largest value of an array, and the standard deviation of all its values."""

    low: float
    high: float
    sd: float


def measure_range(place: str, x: np.ndarray) -> ValueRange:
    """Return the range of all values of an array (N, ...), which are read in blocks.

    Raises:
      ValueError: a value is not finite; the message names its row.
    """
    low = np.inf
    high = -np.inf
    count = 0
    total = 0.0
    squares = 0.0
    centre = None
    for rows in parts(np.arange(len(x)), x.shape[1:]):
        block = x[rows[0] : rows[-1] + 1]
        finite = np.isfinite(block)
        if not finite.all():
            first = np.argwhere(~finite)[0]
            raise ValueError(
                f"row {rows[first[0]]} of {place} holds {block[tuple(first)]}, expected finite "
                "numbers; repair or remove it"
            )
        values = block.astype(np.float64)
        if centre is None:
            centre = values.flat[0]  # so that no digits are lost far from 0
        low = min(low, float(values.min()))
        high = max(high, float(values.max()))
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64: the range says enough
            total += float((values - centre).sum())
            squares += float(((values - centre) ** 2).sum())
        count += values.size
    variance = squares / count - (total / count) * (total / count)
    sd = math.sqrt(max(variance, 0.0)) if variance < math.inf else math.inf
    return ValueRange(low=low, high=high, sd=sd)


def check_scale(place: str, image: bool, values: ValueRange) -> None:
    """Raise a ValueError about floats that were clearly not meant as they are.

    Such are grey levels, or images in [0, 1]. The rule: nothing beyond ±20, a standard deviation of
    at least 0.01, and images on both sides of 0.
    """
    holds = (
        f"{place} holds floats in {values.low:.3g}..{values.high:.3g} with standard deviation "
        f"{values.sd:.3g}"
    )
    low, high = suggested_range(values)
    remedy = (
        f"rescale them, or save images as uint8, or pass data.value_range={(low, high)}, which "
        f"maps {low:g} to -1 and {high:g} to 1"
    )
    if max(-values.low, values.high) > LARGEST or values.sd < SMALLEST_SD:
        raise ValueError(
            f"{holds}; floats are used as they are and should have a standard deviation of about "
            f"1: {remedy}"
        )
    width = values.high - values.low
    if image and (values.low > -ONE_SIDED * width or values.high < ONE_SIDED * width):
        raise ValueError(
            f"{holds}; floats are used as they are, and images should lie around 0: {remedy} (-1 "
            "and 1 leave them as they are)"
        )


def suggested_range(values: ValueRange) -> tuple[float, float]:
    """Return the range that was probably meant: that of intensities or bytes, or the data's own."""
    for low, high in ((0.0, 1.0), (0.0, 255.0), (0.0, 65535.0)):
        if values.low >= low and high / 2 < values.high <= high:
            return low, high
    return values.low, values.high


def check_inside(place: str, values: ValueRange, value_range: tuple[float, float]) -> None:
    """Raise a ValueError about data that reach out of the range that was declared for them."""
    low, high = value_range
    if values.low < low or values.high > high:
        raise ValueError(
            f"{place} holds values in {values.low:g}..{values.high:g}, outside "
            f"data.value_range={value_range}; widen it"
        )
    if values.high - values.low < SMALLEST_SD * (high - low):
        raise ValueError(
            f"{place} holds values in {values.low:g}..{values.high:g}, next to nothing of "
            f"data.value_range={value_range}; narrow it"
        )


def check_grey_levels(place: str, x: np.ndarray, levels: int | None) -> int:
    """Return the number of grey levels of 8-bit images (N, ...): `levels`, or 256.

    Raises:
      ValueError: a pixel beyond `levels`, or images that use so few of 256 levels that they would
        be all but black; not for images of one colour, which `statistics` refuses.
    """
    low = 255
    high = 0
    for rows in parts(np.arange(len(x)), x.shape[1:]):
        block = x[rows[0] : rows[-1] + 1]
        if levels is not None and block.max() >= levels:
            row = rows[np.argmax(block.reshape(len(block), -1).max(1) >= levels)]
            raise ValueError(
                f"row {row} of {place} holds {block.max()}, expected grey levels 0..{levels - 1}; "
                "raise data.levels"
            )
        low = min(low, int(block.min()))
        high = max(high, int(block.max()))
        if levels is None and high >= FEW_LEVELS:
            break
    if levels is None and low < high < FEW_LEVELS:
        raise ValueError(
            f"{place} holds uint8 images that use only the grey levels {low}..{high} of 0..255 and "
            f"would be all but black; pass data.levels={high + 1} if {high} is white, or "
            "data.levels=256 to take them as they are"
        )
    return 256 if levels is None else levels
