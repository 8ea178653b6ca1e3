r"""Precision and recall, density and coverage: are samples where data are, and everywhere there?

A set of features is taken for the union of balls around its points, each of which reaches as far as
its point's k-th nearest other point of the set. With :math:`B(x_i)` the ball of a real and
:math:`B(y_j)` that of a generated point,

- precision is the share of generated points in some :math:`B(x_i)`, and recall the share of real
  points in some :math:`B(y_j)` (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2);
- density is the number of pairs :math:`y_j \in B(x_i)` over k times the number of generated points,
  and coverage the share of :math:`B(x_i)` with a generated point in it (Naeem et al. 2020,
  arXiv:2002.09797, eq. 3 and 4).

Of equal laws density is 1, and coverage
:math:`1 - \binom{n - 1}{k} / \binom{2n - 1}{k} \approx 1 - 2^{-k}` where both sets have n
points. Precision and recall have no such value: compare them with those of real data against real
data.
"""

from typing import NamedTuple

import numpy as np

from ...data.streaming import parts
from ..calibration import finite_array

BLOCK = 2**22  # distances at once: 32 MB
ROUNDING = 64 * np.finfo(np.float64).eps  # of a squared distance, over the largest squared norm


class Manifolds(NamedTuple):
    """How a set of generated points and a set of real ones cover each other."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int  # the neighbour that a ball reaches to


def compare_manifolds(generated, real, k: int = 5) -> Manifolds:
    """Return precision, recall, density and coverage of features (m, d) and (n, d).

    Points on the surface of a ball are inside, and so are copies of its centre. Kynkaanniemi et al.
    take k = 3, Naeem et al. k = 5; all four numbers depend on k, on m and on n.

    Raises:
        ValueError: the widths differ, some features are not finite, or there are not more than k
            of either.
    """
    generated = finite_array("generated features", generated, 2)
    real = finite_array("real features", real, 2)
    if generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"need features of one width, got {generated.shape} and {real.shape}; take both from "
            "one network"
        )
    if k < 1 or min(len(generated), len(real)) <= k:
        raise ValueError(
            f"need k >= 1 and more than k points in each set, got k = {k} with {len(generated)} "
            f"generated and {len(real)} real ones"
        )
    centre = real.mean(0)
    generated = generated - centre
    real = real - centre
    largest = max(_norms(generated).max(), _norms(real).max())
    slack = ROUNDING * largest
    reach_of_real = _squares_to_kth(real, k) + slack
    reach_of_generated = _squares_to_kth(generated, k) + slack
    pairs = 0
    in_real = np.zeros(len(generated), bool)
    in_generated = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    for rows in parts(np.arange(len(real)), (len(generated),), BLOCK):
        squares = _squares(real[rows], generated)
        inside = squares <= reach_of_real[rows, None]  # the generated points in these balls
        pairs += int(inside.sum())
        in_real |= inside.any(0)
        covered[rows] = inside.any(1)
        in_generated[rows] = (squares <= reach_of_generated).any(1)
    return Manifolds(
        precision=float(in_real.mean()),
        recall=float(in_generated.mean()),
        density=pairs / (k * len(generated)),
        coverage=float(covered.mean()),
        k=k,
    )


def _squares_to_kth(points: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance of each point to its k-th nearest other one, (n,)."""
    result = np.zeros(len(points))
    for rows in parts(np.arange(len(points)), (len(points),), BLOCK):
        squares = _squares(points[rows], points)
        squares[np.arange(len(rows)), rows] = np.inf  # the point itself
        result[rows] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return result


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return all squared distances, (m, n), by a product in float64."""
    return _norms(a)[:, None] + _norms(b) - 2 * a @ b.T


def _norms(a: np.ndarray) -> np.ndarray:
    """Return the squared norm of each point."""
    return np.einsum("ij,ij->i", a, a)
