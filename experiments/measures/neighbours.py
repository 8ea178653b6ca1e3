r"""Nearest neighbours, found by products of matrices on the device and then measured exactly.

For points :math:`a, b` the product of two blocks gives all
:math:`|a - b|^2 = |a|^2 + |b|^2 - 2\,a \cdot b` in float32. What cancels in it is bounded, so it
only chooses: the few points that look nearest are measured again in float64 as
:math:`\sum (a_i - b_i)^2`. Where another point could be nearer within the bound, all are measured.
So the distances are those of float64, at the speed of a product.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Unit = tuple[np.ndarray, float]  # where 0 and how long 1 is in the products
CANDIDATES = 8  # points that are measured again
ROWS = 1024  # points in a block, at most
VALUES = 2**24  # numbers in a block, at most
FEATURES = 512  # summed at once; the sums of so many are added up, which bounds the rounding


class Neighbours(NamedTuple):
    """The nearest other point of each point, or the k nearest ones, the nearest first."""

    distance: np.ndarray  # (n,) or (n, k) float64
    index: np.ndarray  # (n,) or (n, k) its place


def nearest(a: np.ndarray, b: np.ndarray | None = None) -> Neighbours:
    """Return the nearest point of `b` (m, ...) to each of `a` (n, ...).

    Without `b` it is the nearest other point of `a` itself.

    Raises:
        ValueError: there is no other point, or the points have different shapes.
    """
    neighbours = k_nearest(a, b, k=1)
    return Neighbours(distance=neighbours.distance[:, 0], index=neighbours.index[:, 0])


def k_nearest(a: np.ndarray, b: np.ndarray | None = None, k: int = 1) -> Neighbours:
    """Return the `k` nearest points of `b` (m, ...) to each of `a` (n, ...), as (n, k).

    Without `b` they are the nearest other points of `a` itself.

    Raises:
        ValueError: there are fewer than k other points, the points have different shapes, or k is
            above `CANDIDATES`.
    """
    others = a if b is None else b
    if not 1 <= k <= CANDIDATES:
        raise ValueError(f"need 1 <= k <= {CANDIDATES} nearest points, got {k}")
    if len(others) < k + (b is None):
        needed = "another point" if k == 1 else f"{k} other points"
        raise ValueError(f"need {needed} to be near to, got {len(others)}")
    if a.shape[1:] != others.shape[1:]:
        raise ValueError(f"points of shape {a.shape[1:]} are not near any of {others.shape[1:]}")
    a, others = a.reshape(len(a), -1), others.reshape(len(others), -1)
    centre = others.mean(0, dtype=np.float64)
    ends = np.concatenate([_ends(a), _ends(others)])
    scale = float(np.max(np.abs(ends - centre))) or 1.0
    if not np.isfinite(scale):
        raise ValueError("need points whose coordinates are all finite")
    count = _block(max(len(a), len(others)), a.shape[1])
    blocks = [
        _nearest(a, others, first, count, (centre, scale), b is None, k)
        for first in range(0, len(a), count)
    ]
    return Neighbours(
        distance=np.concatenate([block.distance for block in blocks]),
        index=np.concatenate([block.index for block in blocks]),
    )


def _nearest(
    a: np.ndarray, b: np.ndarray, first: int, count: int, unit: Unit, same: bool, k: int
) -> Neighbours:
    """Return the k neighbours of each point of one block of `a`, which begins at `first`.

    `same`: a point is not its own neighbour.
    """
    block = a[first : first + count]
    candidates = _candidates(block, b, first if same else None, count, unit)
    index = np.minimum(candidates.index, len(b) - 1)  # beyond it lies what fills up a block
    exact = np.stack([_squares_at(block, b, column) for column in index.T], axis=1)
    exact[np.isinf(candidates.squares)] = np.inf  # the point itself, or none
    best = exact.argsort(1, kind="stable")[:, :k]
    squares = np.take_along_axis(exact, best, 1)
    index = np.take_along_axis(candidates.index, best, 1)
    # Any other point is at least as far as the last candidate, but for rounding.
    least = candidates.squares[:, -1] - candidates.rounding
    unsure = (least <= squares[:, -1] / unit[1] ** 2) & (len(b) - same > CANDIDATES)
    for i in np.flatnonzero(unsure):
        all_squares = _squares_to_all(block[i], b, count)
        if same:
            all_squares[first + i] = np.inf
        index[i] = all_squares.argsort(kind="stable")[:k]
        squares[i] = all_squares[index[i]]
    return Neighbours(distance=np.sqrt(squares), index=index)


class _Candidates(NamedTuple):
    """The points that look nearest to each of n points, the nearest first."""

    squares: np.ndarray  # (n, candidates) squared distances in the unit of the products
    index: np.ndarray  # (n, candidates) which points of the others they are
    rounding: np.ndarray  # (n,) by how much a squared distance may be wrong


def _candidates(
    block: np.ndarray, b: np.ndarray, first: int | None, count: int, unit: Unit
) -> _Candidates:
    """Return the points of `b` that look nearest to each point of a block, by products in float32.

    `first`: where the block begins in `b`, of which it is a part; None: it is no part of it.
    """
    parts, norms = _prepared(block, count, unit)
    farthest = np.zeros(())  # the largest squared norm in `b`
    squares = np.zeros((len(block), 0))
    index = np.zeros((len(block), 0), int)
    for start in range(0, len(b), count):
        others, other_norms = _prepared(b[start : start + count], count, unit)
        farthest = max(farthest, other_norms.max())
        valid = np.arange(count) < len(b) - start
        new_squares, new_index = _smallest(
            parts,
            others,
            norms,
            np.where(valid, other_norms, np.inf),
            2 * (count + len(b)) if first is None else first - start,
            min(CANDIDATES, count),
        )
        new_squares = np.asarray(new_squares, np.float64)[: len(block)]
        squares = np.concatenate([squares, new_squares], axis=1)
        index = np.concatenate([index, start + np.asarray(new_index)[: len(block)]], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :CANDIDATES]
        squares = np.take_along_axis(squares, order, 1)
        index = np.take_along_axis(index, order, 1)
    operations = min(FEATURES, block.shape[1]) + len(parts) + 8
    size = (np.sqrt(norms[: len(block)]) + np.sqrt(farthest)) ** 2
    rounding = np.finfo(np.float32).eps * operations * size
    return _Candidates(squares=squares, index=index, rounding=rounding)


@partial(jax.jit, static_argnames="number")
def _smallest(
    a: Array, b: Array, a_norms: Array, b_norms: Array, excluded: Array, number: int
) -> tuple[Array, Array]:
    """Return the `number` smallest squared distances of each point of `a` to `b`, and to which.

    Both results are (n, number); `a` and `b` are blocks (parts, n, features). The pairs (i, j) with
    j - i = `excluded` are left out.
    """

    def add(total, pair):
        return total + jnp.matmul(pair[0], pair[1].T, precision="highest"), None

    zeros = jnp.zeros((a.shape[1], b.shape[1]), jnp.float32)
    products, _ = jax.lax.scan(add, zeros, (a, b))
    squares = a_norms[:, None] + b_norms[None, :] - 2 * products
    offset = jnp.arange(b.shape[1])[None, :] - jnp.arange(a.shape[1])[:, None]
    values, index = jax.lax.top_k(-jnp.where(offset == excluded, jnp.inf, squares), number)
    return -values, index


def _prepared(x: np.ndarray, count: int, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Return a block as (parts, count, features) in float32, and its squared norms (count,).

    It is filled up with zeros; both are in `unit`.
    """
    centre, scale = unit
    number = -(-x.shape[1] // FEATURES)
    features = min(FEATURES, x.shape[1])
    filled = np.zeros((count, number * features), np.float32)
    filled[: len(x), : x.shape[1]] = (x - centre) / scale
    norms = np.einsum("ij,ij->i", filled, filled, dtype=np.float64)
    return np.moveaxis(filled.reshape(count, number, features), 1, 0), norms.astype(np.float32)


def _squares_at(block: np.ndarray, b: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the squared distance of each point of a block to its point `b[index]`, (n,)."""
    return ((block.astype(np.float64) - b[index]) ** 2).sum(-1)


def _squares_to_all(point: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """Return the squared distances of one point to all of `b`."""
    starts = range(0, len(b), count)
    blocks = (b[start : start + count] - point.astype(np.float64) for start in starts)
    return np.concatenate([(block**2).sum(-1) for block in blocks])


def _ends(x: np.ndarray) -> np.ndarray:
    """Return the smallest and the largest value of each coordinate, (2, d), in float64."""
    return np.stack([x.min(0), x.max(0)]).astype(np.float64)


def _block(number: int, features: int) -> int:
    """Return how many points a block has: a power of two, so that few programs are compiled."""
    room = max(16, min(ROWS, VALUES // features))
    return min(room, max(16, 1 << (number - 1).bit_length()))
