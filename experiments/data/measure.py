"""Measure the data before trusting them: mean, standard deviation and range of what the model will see."""

from typing import NamedTuple

import numpy as np

from .base import DataSet, read_checked
from .scaling import scale


class Statistics(NamedTuple):
    """Over all values of the examples looked at, scaled as the model sees them, dequantisation noise included."""

    mean: float
    sd: float  # what a Denoiser calls sigma_data
    min: float
    max: float
    count: int  # examples looked at


def statistics(dataset: DataSet, split: str, limit: int = 10_000) -> Statistics:
    """Measure up to ``limit`` examples, evenly spaced over the split.

    The noise enters through its exact moments: a grey level k spreads over [k, k + 1), with mean k + 1/2 and variance 1/12.

    Raises:
      ValueError: an example that is not finite or has the wrong shape or range, an image of one colour, or data that are all equal;
        it names the example.
    """
    source = dataset.source(split)
    if len(source) == 0:
        raise ValueError(f"split {split!r} is empty")
    indices = np.unique(np.linspace(0, len(source) - 1, min(len(source), limit)).astype(int))
    width = 0 if dataset.levels is None else 1
    sums, low, high = np.zeros(2), np.inf, -np.inf
    for index in indices:
        (x,), _ = read_checked(dataset, split, source, [index])
        if len(dataset.shape) == 3 and x.size > 1 and x.min() == x.max():
            raise ValueError(
                f"{source.name(index)} of split {split!r} is constant, all {x.flat[0]}: no image to learn from; remove it"
            )
        y = scale(x + width / 2, dataset.levels).astype(np.float64)
        sums += y.sum(), (y**2).sum()
        low, high = min(low, x.min()), max(high, x.max())
    if low == high:
        raise ValueError(f"split {split!r} is constant, all {low}: nothing to learn from")
    mean, square = sums / (len(indices) * np.prod(dataset.shape))
    noise = 0 if dataset.levels is None else (2 / dataset.levels) ** 2 / 12
    ends = scale(np.array([low, high + width], np.float32), dataset.levels)
    return Statistics(
        float(mean),
        float(np.sqrt(square - mean**2 + noise)),
        float(ends[0]),
        float(ends[1]),
        len(indices),
    )
