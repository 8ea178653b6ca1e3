r"""Nearest neighbours, found by products of matrices on the device and then measured exactly.

For points :math:`a, b` the product of two blocks gives all :math:`|a - b|^2 = |a|^2 + |b|^2 - 2\,a \cdot b` in float32. What cancels in it
is bounded, so it only chooses: the few points that look nearest are measured again in float64 as :math:`\sum (a_i - b_i)^2`. Where another
point could be nearer within the bound, all are measured. So the distances are those of float64, at the speed of a product.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Unit = tuple[np.ndarray, float]  # where 0 and how long 1 is in the products
KEPT = 8  # points that are measured again
ROWS = 1024  # points in a block, at most
VALUES = 2**24  # numbers in a block, at most
FEATURES = 512  # summed at once; the sums of so many are added up, which bounds the rounding


class Neighbours(NamedTuple):
    """The nearest other point of each point."""

    distance: np.ndarray  # (n,) float64
    index: np.ndarray  # (n,) its place


def nearest(a: np.ndarray, b: np.ndarray | None = None) -> Neighbours:
    """Return the nearest point of `b` (m, ...) to each of `a` (n, ...), or the nearest other point of `a` itself.

    Raises:
        ValueError: there is no other point, or the points have different shapes.
    """
    others = a if b is None else b
    if len(others) < 1 + (b is None):
        raise ValueError(f"need another point to be near to, got {len(others)}")
    if a.shape[1:] != others.shape[1:]:
        raise ValueError(f"points of shape {a.shape[1:]} are not near any of {others.shape[1:]}")
    a, others = a.reshape(len(a), -1), others.reshape(len(others), -1)
    centre = others.mean(0, dtype=np.float64)
    scale = max(float(np.max(np.abs(_ends(points) - centre))) for points in (a, others)) or 1.0
    if not np.isfinite(scale):
        raise ValueError("need points whose coordinates are all finite")
    count = _block(max(len(a), len(others)), a.shape[1])
    found = [
        _nearest(a, others, first, count, (centre, scale), b is None)
        for first in range(0, len(a), count)
    ]
    return Neighbours(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _nearest(
    a: np.ndarray, b: np.ndarray, first: int, count: int, unit: Unit, same: bool
) -> Neighbours:
    """Return the neighbours of one block of `a`, which begins at `first`; `same`: a point is not its own neighbour."""
    block = a[first : first + count]
    rows = np.arange(first, first + len(block))
    parts, norms = _prepared(block, count, unit)
    reach = np.zeros(())
    seen, places = np.zeros((len(block), 0)), np.zeros((len(block), 0), int)
    for start in range(0, len(b), count):
        others, other_norms = _prepared(b[start : start + count], count, unit)
        valid = np.arange(count) < len(b) - start
        reach = max(reach, other_norms.max())
        excluded = first - start if same else 2 * len(a) + 2 * len(b)
        squares, chosen = _smallest(
            parts, others, norms, np.where(valid, other_norms, np.inf), excluded, min(KEPT, count)
        )
        seen = np.concatenate([seen, np.asarray(squares, np.float64)[: len(block)]], axis=1)
        places = np.concatenate([places, start + np.asarray(chosen)[: len(block)]], axis=1)
        order = np.argsort(seen, axis=1, kind="stable")[:, :KEPT]
        seen = np.take_along_axis(seen, order, 1)
        places = np.take_along_axis(places, order, 1)
    exact = np.stack(
        [_measured(block, b, np.minimum(place, len(b) - 1)) for place in places.T], axis=1
    )
    exact[np.isinf(seen)] = np.inf  # the point itself, or none
    best = exact.argmin(1)
    squares, index = exact[np.arange(len(block)), best], places[np.arange(len(block)), best]
    rounding = min(FEATURES, a.shape[1]) + len(parts) + 8
    bound = (
        np.finfo(np.float32).eps * rounding * (np.sqrt(norms[: len(block)]) + np.sqrt(reach)) ** 2
    )
    unsure = (seen[:, -1] - bound <= squares / unit[1] ** 2) & (len(b) - same > KEPT)
    for i in np.flatnonzero(unsure):
        all_squares = _to_all(block[i], b, count)
        if same:
            all_squares[rows[i]] = np.inf
        index[i] = all_squares.argmin()
        squares[i] = all_squares[index[i]]
    return Neighbours(distance=np.sqrt(squares), index=index)


@partial(jax.jit, static_argnames="kept")
def _smallest(
    a: Array, b: Array, a_norms: Array, b_norms: Array, excluded: Array, kept: int
) -> tuple[Array, Array]:
    """Return the `kept` smallest squared distances (n, kept) of blocks (parts, n, features), and whose they are.

    The pairs (i, j) with j - i = `excluded` are left out.
    """

    def add(total, pair):
        return total + jnp.matmul(pair[0], pair[1].T, precision="highest"), None

    zeros = jnp.zeros((a.shape[1], b.shape[1]), jnp.float32)
    products, _ = jax.lax.scan(add, zeros, (a, b))
    squares = a_norms[:, None] + b_norms[None, :] - 2 * products
    offset = jnp.arange(b.shape[1])[None, :] - jnp.arange(a.shape[1])[:, None]
    values, places = jax.lax.top_k(-jnp.where(offset == excluded, jnp.inf, squares), kept)
    return -values, places


def _prepared(x: np.ndarray, count: int, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Return a block as (parts, count, features) in float32, filled up with zeros, and its squared norms (count,), both in `unit`."""
    centre, scale = unit
    number = -(-x.shape[1] // FEATURES)
    features = min(FEATURES, x.shape[1])
    filled = np.zeros((count, number * features), np.float32)
    filled[: len(x), : x.shape[1]] = (x - centre) / scale
    norms = np.einsum("ij,ij->i", filled, filled, dtype=np.float64)
    return np.moveaxis(filled.reshape(count, number, features), 1, 0), norms.astype(np.float32)


def _measured(block: np.ndarray, b: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the squared distance of each point of a block to the one at its place in `b`."""
    return ((block.astype(np.float64) - b[places]) ** 2).sum(-1)


def _to_all(point: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
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
