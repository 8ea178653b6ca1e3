r"""Are posterior samples as uncertain as they should be? Coverage and ranks of the truth.

For n problems with truths (n, d) and m posterior samples of each (n, m, d), the rank of a true
coordinate among its samples is uniform on 0 ... m where the samples are of the posterior (Talts et
al. 2018, arXiv:1804.06788, theorem 1). Ranks measure coverage without bias at any m: a rank r
stands for the interval :math:`[r, r + 1] / (m + 1)`, and counts by the share of it that lies in the
central interval. Coordinates of one problem depend on each other, problems do not; so standard
errors are over problems. Everything is in NumPy float64.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class Coverage(NamedTuple):
    """How often central intervals hold what they should, at each level."""

    levels: np.ndarray  # (levels,), what it should be
    value: np.ndarray  # (levels,)
    std_error: np.ndarray  # (levels,)


class RankHistogram(NamedTuple):
    """How often a rank falls into each bin, for each coordinate."""

    counts: np.ndarray  # (d, bins)
    expected: np.ndarray  # (bins,)
    low: np.ndarray  # (bins,), of the band
    high: np.ndarray  # (bins,)
    false_alarm: float  # probability that any count leaves the band by chance, at most
    p_value: float  # of the worst coordinate's chi-square, times the number of coordinates


def coverage(samples, truths, levels=LEVELS) -> Coverage:
    """Return the share of true coordinates inside central intervals of their samples.

    Args:
        samples: (n, m, d), m posterior samples of each of n problems.
        truths: (n, d).
        levels: of the intervals, between 0 and 1.

    Raises:
        ValueError: shapes disagree, a value is not finite, or there are fewer than two problems.
    """
    samples, truths = _checked(samples, truths)
    less, equal = _places(samples, truths)
    return _coverage(less, equal, samples.shape[1], levels)


def interval_coverage(samples, exact, levels=(0.5, 0.9)) -> Coverage:
    """Return the exact posterior's mass inside central intervals of samples, for one measurement.

    The standard error is that of the exact samples.

    Args:
        samples: (m, d), of a method.
        exact: (k, d), of the exact posterior.
        levels: of the intervals, between 0 and 1.

    Raises:
        ValueError: shapes disagree, or a value is not finite.
    """
    samples = finite_array("samples", samples, 2)
    exact = finite_array("exact", exact, 2)
    if samples.shape[1] != exact.shape[1] or len(exact) < 2:
        raise ValueError(
            "need samples (m, d) and two or more exact ones (k, d), "
            f"got {samples.shape} and {exact.shape}"
        )
    ordered = np.sort(samples, 0).T
    columns = list(zip(ordered, exact.T, strict=True))
    less = np.stack([np.searchsorted(a, b, "left") for a, b in columns], 1)
    up_to = np.stack([np.searchsorted(a, b, "right") for a, b in columns], 1)
    return _coverage(less, up_to - less, len(samples), levels)


def ranks(samples, truths, seed: int = 0) -> np.ndarray:
    """Return the ranks (n, d), 0 ... m, of true coordinates among their samples.

    Ties are broken at random.

    Args:
        samples: (n, m, d).
        truths: (n, d).
        seed: of the ties.

    Raises:
        ValueError: as for `coverage`.
    """
    less, equal = _places(*_checked(samples, truths))
    return less + np.random.default_rng(seed).integers(0, equal + 1)


def rank_histogram(
    ranks: np.ndarray, m: int, bins: int | None = None, false_alarm: float = 0.01
) -> RankHistogram:
    """Return the histogram of ranks and the band that it should stay in.

    The band holds all counts of all coordinates with probability 1 - `false_alarm` or more where
    the samples are of the posterior: quantiles of a binomial law, shared out over the counts.

    Args:
        ranks: (n, d), from 0 to `m`.
        m: number of samples that each rank is among.
        bins: at most m + 1; by default as many as leave ten ranks in each, at most 20.
        false_alarm: probability of any count outside.

    Raises:
        ValueError: ranks are no integers from 0 to `m`, or too few for the bins.
    """
    ranks = finite_array("ranks", ranks, 2)
    n, d = ranks.shape
    if np.any((ranks < 0) | (ranks > m) | (ranks % 1 != 0)):
        raise ValueError(
            f"need whole ranks from 0 to {m}, got {ranks.min()} to {ranks.max()}; "
            "m is the number of samples"
        )
    bins = bins or max(2, min(20, m + 1, n // 10))
    if not 2 <= bins <= m + 1 or n < 5 * bins:
        raise ValueError(
            f"need 2 to {m + 1} bins and five problems for each, got {bins} bins and {n} problems"
        )
    edges = np.arange(bins + 1) * (m + 1) // bins  # whole ranks: bins may differ by one of them
    shares = np.diff(edges) / (m + 1)
    counts = np.stack([np.histogram(column, edges - 0.5)[0] for column in ranks.T])
    tail = false_alarm / (2 * bins * d)
    squares = np.sum((counts - n * shares) ** 2 / (n * shares), 1)
    p_value = min(1.0, d * float(stats.chi2.sf(squares.max(), bins - 1)))
    return RankHistogram(
        counts=counts,
        expected=n * shares,
        low=stats.binom.ppf(tail, n, shares),
        high=stats.binom.isf(tail, n, shares),
        false_alarm=false_alarm,
        p_value=p_value,
    )


def _coverage(less: np.ndarray, equal: np.ndarray, m: int, levels) -> Coverage:
    """Return the coverage of central intervals from places (n, d) among `m` samples."""
    levels = finite_array("levels", levels, 1)
    if np.any((levels <= 0) | (levels >= 1)):
        raise ValueError(f"need levels between 0 and 1, got {levels}; 90 % is 0.9")
    start = (less / (m + 1))[..., None]
    end = ((less + equal + 1) / (m + 1))[..., None]
    overlap = np.minimum(end, (1 + levels) / 2) - np.maximum(start, (1 - levels) / 2)
    inside = np.maximum(overlap, 0.0) / (end - start)
    of_problem = inside.mean(1)  # coordinates depend on each other
    return Coverage(
        levels=levels,
        value=of_problem.mean(0),
        std_error=of_problem.std(0, ddof=1) / np.sqrt(len(of_problem)),
    )


def _places(samples: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples are less than, and equal to, each true coordinate, (n, d) each."""
    truths = truths[:, None]
    return np.sum(samples < truths, 1), np.sum(samples == truths, 1)


def _checked(samples, truths) -> tuple[np.ndarray, np.ndarray]:
    """Return samples (n, m, d) and truths (n, d) in float64."""
    samples = finite_array("samples", samples, 3)
    truths = finite_array("truths", truths, 2)
    if samples.shape[::2] != truths.shape or len(truths) < 2:
        raise ValueError(
            "need samples (n, m, d) and truths (n, d) of two or more problems, "
            f"got {samples.shape} and {truths.shape}; flatten each sample into a row"
        )
    return samples, truths


def finite_array(name: str, value, axes: int) -> np.ndarray:
    """Return `value` in float64, with so many axes."""
    array = np.asarray(value, np.float64)
    if array.ndim != axes or not array.size or not np.all(np.isfinite(array)):
        raise ValueError(
            f"need {name} finite, non-empty and with {axes} axes, got shape {array.shape} with "
            f"{np.sum(~np.isfinite(array))} values that are not finite"
        )
    return array
