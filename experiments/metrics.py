"""How samples compare with real data, in numbers whose floor, real against real, can be computed the same way. All in float64 NumPy."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist


class Proportion(NamedTuple):
    """A share of yes among n, with its binomial standard error."""

    value: float
    std_error: float


def pooled_pixels(x: np.ndarray, side: int = 8) -> np.ndarray:
    """Return the feature space "pixels pooled to at most 8 x 8" (batch, features) of images (batch, H, W, C); vectors are kept."""
    x = np.asarray(x, np.float64)
    if x.ndim == 4:
        rows, columns = max(1, x.shape[1] // side), max(1, x.shape[2] // side)
        x = x[:, : x.shape[1] // rows * rows, : x.shape[2] // columns * columns]
        x = x.reshape(len(x), x.shape[1] // rows, rows, x.shape[2] // columns, columns, -1).mean(
            (2, 4)
        )
    return x.reshape(len(x), -1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of Gaussians fitted to features (n, d) and (m, d) (Heusel et al. 2017, arXiv:1706.08500).

    Finite samples make it positive for equal distributions too: compare it with its floor at the same n and m.
    """
    mean = np.sum((a.mean(0) - b.mean(0)) ** 2)
    covs = [np.atleast_2d(np.cov(f, rowvar=False)) for f in (a, b)]
    values, vectors = np.linalg.eigh(covs[0])
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covs[1] @ root), 0, None)).sum()
    return float(mean + np.trace(covs[0]) + np.trace(covs[1]) - 2 * cross)


def nearest_neighbour_accuracy(a: np.ndarray, b: np.ndarray) -> Proportion:
    """Return how often the nearest other point of a pooled point is of its own set (Lopez-Paz and Oquab 2017, arXiv:1610.06545).

    0.5 for equal distributions and sizes, above it where they can be told apart, well below where one repeats points of the other. The sets
    have equal sizes (n, d); ties count half.
    """
    if len(a) != len(b):
        raise ValueError(f"the two sets must have equal sizes, got {len(a)} and {len(b)}")
    within, across = [cdist(f, f) for f in (a, b)], cdist(a, b)
    own = [(np.fill_diagonal(d, np.inf), d.min(1))[1] for d in within]
    other = [across.min(1), across.min(0)]
    votes = np.concatenate([(o < x) + 0.5 * (o == x) for o, x in zip(own, other, strict=True)])
    return Proportion(
        float(votes.mean()), float(np.sqrt(votes.mean() * (1 - votes.mean()) / len(votes)))
    )


def nearest_distances(a: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Return the distance from each point of `a` to the nearest one of `b`, or to the nearest other one of `a` itself."""
    distances = cdist(a, a if b is None else b)
    if b is None:
        np.fill_diagonal(distances, np.inf)
    return distances.min(1)
