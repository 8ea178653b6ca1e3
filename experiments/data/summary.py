"""Measure the data before trusting them: mean, standard deviation and range of model values."""

from typing import NamedTuple

import numpy as np

from .base import BadExamples, DataSet, check_facts, read_checked
from .running import RunningMoments
from .streaming import evenly_spaced, parts


class Statistics(NamedTuple):
    """Statistics of all model values of the examples looked at, dequantisation noise included."""

    mean: float
    sd: float  # what a Denoiser calls sigma_data
    min: float
    max: float
    count: int  # examples looked at


def statistics(dataset: DataSet, split: str, limit: int = 10_000) -> Statistics:
    """Return the statistics of up to ``limit`` examples, evenly spaced over the split.

    The noise enters through its exact moments: a grey level k becomes uniform on [k, k + 1), with
    mean k + 1/2 and variance 1/12.

    Raises:
      BadExamples: examples that cannot be read, are not finite or have the wrong shape, range or
        label, and images of one colour; it names all of them.
      ValueError: an empty split, or data that are all equal.
    """
    check_facts(dataset)
    source = dataset.source(split)
    if len(source) == 0:
        raise ValueError(f"split {split!r} is empty; choose another one")
    running = RunningMoments()
    low = np.inf
    high = -np.inf
    problems: list[str] = []
    for rows in parts(evenly_spaced(len(source), limit), dataset.shape):
        try:
            x, _ = read_checked(dataset, split, source, rows)
        except BadExamples as error:
            problems += error.problems
            continue
        for row in _constant_images(x, rows):
            problems.append(
                f"{source.name(row)} of split {split!r} is constant, all "
                f"{source[row]['x'].flat[0]}: no image to learn from; remove it"
            )
        running.add(dataset.codec.expected(x).reshape(-1, 1))
        low = min(low, float(x.min()))
        high = max(high, float(x.max()))
    if problems:
        raise BadExamples(problems)
    if low == high:
        raise ValueError(f"split {split!r} is constant, all {low}: nothing to learn from")
    low, high = dataset.codec.range(low, high)
    return Statistics(
        mean=float(running.mean[0]),
        sd=float(np.sqrt(running.variance[0] + dataset.codec.noise_variance)),
        min=low,
        max=high,
        count=running.count // int(np.prod(dataset.shape)),
    )


def _constant_images(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows whose images (n, H, W, C) have one colour.

    Vectors of equal numbers are points like others.
    """
    if x.ndim != 4 or x[0].size == 1:
        return rows[:0]
    flat = x.reshape(len(x), -1)
    return rows[flat.min(1) == flat.max(1)]
