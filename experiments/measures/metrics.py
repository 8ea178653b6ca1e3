"""How samples compare with real data, in numbers. All are in float64.

Each has a floor, real data against real data, that can be computed in the same way.

Nothing is copied whole: images stay as they are stored, and blocks of them are pooled, averaged and
compared.
"""

from typing import NamedTuple

import numpy as np

from ..data.joint_moments import measure_moments
from ..data.streaming import parts
from .images import frechet
from .neighbours import nearest


class Proportion(NamedTuple):
    """A share of yes among n, with its standard error."""

    value: float
    std_error: float

    @classmethod
    def of(cls, yes: np.ndarray) -> "Proportion":
        """Return the share of yes in (n,) independent answers."""
        value = float(np.mean(yes))
        return cls(value=value, std_error=float(np.sqrt(value * (1 - value) / len(yes))))


def pooled_pixels(x: np.ndarray, side: int = 8) -> np.ndarray:
    """Return the pixels of images, pooled to at most 8 x 8, as features (batch, features).

    Images are (batch, H, W, C); vectors stay as they are.
    """
    x = np.asarray(x)
    blocks = parts(np.arange(len(x)), x.shape[1:])
    return np.concatenate([_pooled(x[rows], side) for rows in blocks])


def _pooled(x: np.ndarray, side: int) -> np.ndarray:
    """Return the features of a block of images or vectors."""
    x = x.astype(np.float64)
    if x.ndim == 4:
        rows = max(1, x.shape[1] // side)
        columns = max(1, x.shape[2] // side)
        x = x[:, : x.shape[1] // rows * rows, : x.shape[2] // columns * columns]
        x = x.reshape(len(x), x.shape[1] // rows, rows, x.shape[2] // columns, columns, -1)
        x = x.mean((2, 4))
    return x.reshape(len(x), -1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of Gaussians fitted to features (n, d) and (m, d).

    Source: Heusel et al. 2017, arXiv:1706.08500.

    Finite samples make it positive for equal distributions too: compare it with its floor at the
    same n and m.
    """
    return frechet.frechet_distance(measure_moments(a), measure_moments(b))


def nearest_neighbour_accuracy(a: np.ndarray, b: np.ndarray) -> Proportion:
    r"""Return how often the nearest other point of a pooled point is of its own set.

    Source: Lopez-Paz and Oquab 2017, arXiv:1610.06545.

    0.5 for equal distributions and sizes, above it where they can be told apart, well below where
    one repeats points of the other. The sets have equal sizes (n, ...); ties count half.

    Two points that are nearest to each other have one vote between them: both are of one set or
    neither is. So with a share :math:`m` of points in such pairs, and of N points in all, the
    variance is :math:`v (1 - v) (1 + m) / N`, which is exact, but for terms of order 1 / N^2, for
    sets of one distribution, where the votes of any other two points are independent. In the plane
    m is 0.62.
    """
    if len(a) != len(b):
        raise ValueError(f"the two sets must have equal sizes, got {len(a)} and {len(b)}")
    own = [nearest(points) for points in (a, b)]
    other = [nearest(a, b), nearest(b, a)]
    inside = np.concatenate([neighbours.distance for neighbours in own])
    outside = np.concatenate([neighbours.distance for neighbours in other])
    votes = (inside < outside) + 0.5 * (inside == outside)
    n = len(a)
    index_inside = np.concatenate([own[0].index, n + own[1].index])
    index_outside = np.concatenate([n + other[0].index, other[1].index])
    neighbour = np.where(inside <= outside, index_inside, index_outside)
    mutual = np.mean(neighbour[neighbour] == np.arange(2 * n))
    value = votes.mean()
    variance = value * (1 - value) * (1 + mutual) / len(votes)
    return Proportion(float(value), float(np.sqrt(variance)))


def nearest_distances(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Return the distance from each point of `a` to the nearest one of `b`, (n,).

    Without `b` it is the distance to the nearest other point of `a` itself.
    """
    return nearest(a, b).distance
