r"""Mean and variance of each coordinate in one pass over blocks of the data.

With :math:`n_a, m_a, S_a` the number, the mean and the sum of squared deviations of what was seen,
and :math:`n_b, m_b, S_b` those of a new block, :math:`m = m_a + (m_b - m_a) n_b / n` and
:math:`S = S_a + S_b + (m_b - m_a)^2 n_a n_b / n` (Chan, Golub and LeVeque 1983, eq. 2.1). Nothing
is lost where the mean is large. Covariances are those of `joint_moments`.
"""

from typing import NamedTuple

import numpy as np

from .base import DataSet
from .joint_moments import measure_moments, merge
from .streaming import blocks, evenly_spaced


class Moments(NamedTuple):
    """Moments of the scaled data, as the model sees them, dequantisation noise included."""

    mean: np.ndarray  # (*shape)
    variance: np.ndarray  # (*shape)
    covariance: np.ndarray | None  # (dim, dim), if it was wanted
    count: int  # examples looked at


class RunningMoments:
    """Mean and squared deviations of rows (n, d), as float64."""

    def __init__(self):
        self.count = 0
        self.mean: np.ndarray = np.zeros(())
        self.squares: np.ndarray = np.zeros(())

    def add(self, x: np.ndarray) -> None:
        """Add rows (n, d)."""
        x = x.astype(np.float64)
        mean = x.mean(0)
        squares = ((x - mean) ** 2).sum(0)
        total = self.count + len(x)
        shift = mean - self.mean
        if self.count:
            self.squares = self.squares + squares + shift**2 * (self.count * len(x) / total)
            self.mean = self.mean + shift * (len(x) / total)
        else:
            self.squares = squares
            self.mean = mean
        self.count = total

    @property
    def variance(self) -> np.ndarray:
        """Return the population variance (d,)."""
        return self.squares / self.count


def moments(dataset: DataSet, split: str, limit: int = 10_000, full: bool = False) -> Moments:
    """Return mean and variance of each coordinate of a split.

    Args:
      dataset: the data set.
      split: one of its splits.
      limit: the most examples that are looked at, evenly spaced over the split.
      full: also the covariances (dim, dim), for data of some thousand dimensions at most.
    """
    rows = evenly_spaced(len(dataset.source(split)), limit)
    seen = (block.x for block in blocks(dataset, split, rows))
    flat = (dataset.codec.expected(x).reshape(len(x), -1) for x in seen)
    noise = dataset.codec.noise_variance
    covariance = None
    if full:
        joint = merge(*(measure_moments(x) for x in flat))
        mean, count = joint.mean, joint.count
        covariance = joint.scatter / count + noise * np.eye(len(mean))
        variance = np.diag(covariance)
    else:
        running = RunningMoments()
        for x in flat:
            running.add(x)
        mean, count = running.mean, running.count
        variance = running.variance + noise
    return Moments(
        mean=mean.reshape(dataset.shape),
        variance=variance.reshape(dataset.shape),
        covariance=covariance,
        count=count,
    )
