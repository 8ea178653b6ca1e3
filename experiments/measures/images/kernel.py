r"""The kernel distance (KID): an unbiased squared maximum mean discrepancy of features.

With the kernel :math:`k(x, y) = (x \cdot y / d + 1)^3` and samples :math:`x_1 \dots x_m` and
:math:`y_1 \dots y_n`, it is (Binkowski et al. 2018, arXiv:1801.01401, section 4)

.. math:: D = \operatorname*{mean}_{i \ne j} k(x_i, x_j)
    + \operatorname*{mean}_{i \ne j} k(y_i, y_j)
    - 2 \operatorname*{mean}_{i, j} k(x_i, y_j).

It is a U-statistic. In its Hoeffding decomposition all terms are uncorrelated, so that, with
:math:`\phi` the centred feature map of each law and :math:`\delta` the difference of the two mean
embeddings, its variance is exactly

.. math:: \frac{4 \operatorname{Var} \langle \phi_x, \delta \rangle}{m}
    + \frac{4 \operatorname{Var} \langle \phi_y, \delta \rangle}{n}
    + \frac{2\, \mathbb{E} \langle \phi_x, \phi_{x'} \rangle^2}{m (m - 1)}
    + \frac{2\, \mathbb{E} \langle \phi_y, \phi_{y'} \rangle^2}{n (n - 1)}
    + \frac{4\, \mathbb{E} \langle \phi_x, \phi_y \rangle^2}{m n}.

Each of these is a sum of products of expectations of the kernel, and is estimated without bias by
means over distinct samples (Sutherland et al. 2017, arXiv:1611.04488, do so where m = n).
All of them are made of sums of the kernel over rows and of its squares.

The first two terms, :math:`F`, are of order :math:`D`, and 0 with it; the others, :math:`G`, are
not. As the estimate of F rises and falls with that of D, value and standard error alone make bad
intervals near 0, where they matter. So the interval holds every distance :math:`D_0 \ge 0` that the
value does not contradict, :math:`(D - D_0)^2 \le z^2 (G + r D_0)` with :math:`r` the ratio of F and
D: the reasoning of Wilson's interval for a proportion. At :math:`D_0 = 0` only G counts.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from ...data.streaming import parts
from ..calibration import finite_array

BLOCK = 2**22  # values of the kernel at once: 32 MB


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy; where it is 0 half of the estimates are below 0."""

    value: float  # without bias
    std_error: float  # of the value
    low: float  # of an interval that holds the true one; 0: equal laws are not excluded
    high: float
    level: float  # probability with which the interval holds the true distance


class _Within(NamedTuple):
    """Sums of the kernel between the points of one set, each with the others."""

    rows: np.ndarray  # (m,) sums over the others
    squares: float  # sum of squares over all pairs, each counted twice
    diagonal: float  # sum of the kernel of each point with itself


class _Between(NamedTuple):
    """Sums of the kernel between the points of two sets."""

    rows: np.ndarray  # (m,) sums over the second set
    columns: np.ndarray  # (n,) sums over the first set
    squares: float


def kernel_distance(a, b, level: float = 0.95) -> KernelDistance:
    """Return the kernel distance of features (m, d) and (n, d), and an interval of the true one.

    All pairs are used, not subsets of them; the memory is that of a block.

    Args:
        a: features (m, d).
        b: features (n, d).
        level: of the interval.

    Raises:
        ValueError: the widths differ, there are fewer than four of either, some are not finite, or
            the level is not between 0 and 1.
    """
    a = finite_array("the first features", a, 2)
    b = finite_array("the second features", b, 2)
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 4:
        raise ValueError(
            f"need four or more features of one width in each set, got {a.shape} and {b.shape}"
        )
    if not 0 < level < 1:
        raise ValueError(f"need a level between 0 and 1, got {level}; 95 % is 0.95")
    m, n = len(a), len(b)
    of_a, of_b, cross = _within(a), _within(b), _between(a, b)
    flipped = _Between(rows=cross.columns, columns=cross.rows, squares=cross.squares)
    value = _mean_within(of_a) + _mean_within(of_b) - 2 * cross.rows.sum() / (m * n)
    # An estimate of a variance that is 0, as that of equal laws, is below 0 half of the time.
    first_order = 4 * _variance_along(of_a, cross) / m + 4 * _variance_along(of_b, flipped) / n
    first_order = max(0.0, first_order)
    second_order = (
        2 * _squared_within(of_a) / (m * (m - 1))
        + 2 * _squared_within(of_b) / (n * (n - 1))
        + 4 * _squared_between(cross) / (m * n)
    )
    second_order = max(0.0, second_order)
    # Of the laws of the samples themselves both are above 0, and their ratio is never wild.
    plug_in = 4 * _plug_in_variance(of_a, cross) / m + 4 * _plug_in_variance(of_b, flipped) / n
    plug_in_value = value + _excess(of_a) / m + _excess(of_b) / n
    tiny = np.finfo(np.float64).tiny
    ratio = max(
        plug_in / max(plug_in_value, tiny),
        first_order / max(value, np.sqrt(second_order), tiny),
    )
    low, high = _interval(value, second_order, ratio, level)
    return KernelDistance(
        value=float(value),
        std_error=float(np.sqrt(first_order + second_order)),
        low=low,
        high=high,
        level=level,
    )


def _interval(value: float, second_order: float, ratio: float, level: float) -> tuple[float, float]:
    """Return the distances from 0 on that lie within their own standard errors of the value."""
    z = float(norm.isf((1 - level) / 2))
    centre = value + z**2 * ratio / 2
    square = second_order + ratio * value + z**2 * ratio**2 / 4
    half = z * np.sqrt(max(0.0, square))
    return max(0.0, float(centre - half)), max(0.0, float(centre + half))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cubic kernel of each pair, (m, n)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _within(a: np.ndarray) -> _Within:
    """Return the sums of the kernel between the points of one set."""
    rows = np.zeros(len(a))
    squares = 0.0
    diagonal = 0.0
    for block in parts(np.arange(len(a)), (len(a),), BLOCK):
        kernel = _kernel(a[block], a)
        own = np.arange(len(block)), block
        diagonal += kernel[own].sum()
        kernel[own] = 0
        rows[block] = kernel.sum(1)
        squares += np.sum(kernel**2)
    return _Within(rows=rows, squares=float(squares), diagonal=float(diagonal))


def _between(a: np.ndarray, b: np.ndarray) -> _Between:
    """Return the sums of the kernel between the points of two sets."""
    rows = np.zeros(len(a))
    columns = np.zeros(len(b))
    squares = 0.0
    for block in parts(np.arange(len(a)), (len(b),), BLOCK):
        kernel = _kernel(a[block], b)
        rows[block] = kernel.sum(1)
        columns += kernel.sum(0)
        squares += np.sum(kernel**2)
    return _Between(rows=rows, columns=columns, squares=float(squares))


def _mean_within(sums: _Within) -> float:
    """Return the mean over pairs of distinct points, E k(x, x')."""
    m = len(sums.rows)
    return sums.rows.sum() / (m * (m - 1))


def _triples_within(sums: _Within) -> float:
    """Return E k(x, x') k(x, x'') from distinct points."""
    m = len(sums.rows)
    return (np.sum(sums.rows**2) - sums.squares) / (m * (m - 1) * (m - 2))


def _square_of_mean_within(sums: _Within) -> float:
    """Return (E k(x, x'))^2 from pairs that share no point."""
    m = len(sums.rows)
    shared = 4 * np.sum(sums.rows**2) - 2 * sums.squares
    return (sums.rows.sum() ** 2 - shared) / (m * (m - 1) * (m - 2) * (m - 3))


def _triples_between(rows: np.ndarray, squares: float, others: int) -> float:
    """Return E k(x, y) k(x, y') from sums over `others` points y for each x."""
    return (np.sum(rows**2) - squares) / (len(rows) * others * (others - 1))


def _square_of_mean_between(cross: _Between) -> float:
    """Return (E k(x, y))^2 from pairs that share no point."""
    m, n = len(cross.rows), len(cross.columns)
    shared = np.sum(cross.rows**2) + np.sum(cross.columns**2) - cross.squares
    return (cross.rows.sum() ** 2 - shared) / (m * (m - 1) * n * (n - 1))


def _squared_within(sums: _Within) -> float:
    """Return E <phi(x), phi(x')>^2 of the centred feature map."""
    m = len(sums.rows)
    mean_of_squares = sums.squares / (m * (m - 1))
    return mean_of_squares - 2 * _triples_within(sums) + _square_of_mean_within(sums)


def _squared_between(cross: _Between) -> float:
    """Return E <phi(x), phi(y)>^2 of the feature maps, each centred for its own law."""
    m, n = len(cross.rows), len(cross.columns)
    mean_of_squares = cross.squares / (m * n)
    of_rows = _triples_between(cross.rows, cross.squares, n)
    of_columns = _triples_between(cross.columns, cross.squares, m)
    return mean_of_squares - of_rows - of_columns + _square_of_mean_between(cross)


def _variance_along(own: _Within, cross: _Between) -> float:
    """Return Var <phi(x), delta>: that of E k(x, x') - E k(x, y) over x, for the first set."""
    m, n = len(cross.rows), len(cross.columns)
    second_moment = (
        _triples_within(own)
        - 2 * np.sum(own.rows * cross.rows) / (m * (m - 1) * n)
        + _triples_between(cross.rows, cross.squares, n)
    )
    # Three distinct points of the first set, and any of the second.
    disjoint = own.rows.sum() * cross.rows.sum() - 2 * np.sum(own.rows * cross.rows)
    square_of_mean = (
        _square_of_mean_within(own)
        - 2 * disjoint / (m * (m - 1) * (m - 2) * n)
        + _square_of_mean_between(cross)
    )
    return second_moment - square_of_mean


def _plug_in_variance(own: _Within, cross: _Between) -> float:
    """Return the sample variance of the mean kernel with the own set minus that with the other."""
    m, n = len(cross.rows), len(cross.columns)
    return float(np.var(own.rows / (m - 1) - cross.rows / n, ddof=1))


def _excess(sums: _Within) -> float:
    """Return E k(x, x) - E k(x, x'), the variance of a point in the space of the kernel."""
    return sums.diagonal / len(sums.rows) - _mean_within(sums)
