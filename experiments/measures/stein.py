r"""Do samples fit a score? The kernel Stein discrepancy, which needs no reference samples.

For the score s of the posterior, that of the data plus the gradient of :math:`\log p(y \mid x)`, and
the kernel :math:`k = q^{-1/2}`, :math:`q = 1 + r^T P r`, :math:`r = x - x'`,

.. math:: k_p(x, x') = \frac{s^T s'}{q^{1/2}} + \frac{(s - s')^T P r + \operatorname{tr} P}{q^{3/2}}
    - \frac{3 |P r|^2}{q^{5/2}}

has mean 0 over pairs where the samples have the score s, and a positive one otherwise (Gorham and
Mackey 2017, arXiv:1703.01717). P is the inverse square of the median distance, or the inverse
covariance of the samples. Everything is in NumPy float64, in blocks.

The score of clean data does not depend on the shares of modes that lie far apart, so that no
discrepancy made of it sees them (Wenliang and Kanagawa 2020, arXiv:2008.10087). Noise of the size of
their distance joins the modes: where the score of the noised law is known, `noised_score_ksd` sees
the shares.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist

from .calibration import finite_array

BLOCK = 512
FOR_MEDIAN = 1000  # samples whose distances are taken
LEVELS = (0.1, 0.3, 1.0, 3.0)  # of noise, in units of the data's size


class SteinDiscrepancy(NamedTuple):
    """Squared kernel Stein discrepancies."""

    u_statistic: float  # unbiased: 0 on average for the posterior itself
    v_statistic: float  # never negative
    std_error: float  # of the U-statistic


def median_precision(x: np.ndarray) -> np.ndarray:
    """Return I over the squared median distance of the samples."""
    distance = np.median(pdist(x[:FOR_MEDIAN]))
    if not distance > 0:
        raise ValueError("need samples that differ, got a median distance of 0")
    return np.eye(x.shape[1]) / distance**2


def covariance_precision(x: np.ndarray) -> np.ndarray:
    """Return the inverse covariance of the samples."""
    cov = np.cov(x.T).reshape(x.shape[1], -1)
    if np.linalg.matrix_rank(cov, hermitian=True) < len(cov):
        raise ValueError(
            f"need samples that fill their {len(cov)} dimensions, got a singular covariance; "
            "use the scale 'median'"
        )
    return np.linalg.inv(cov)


SCALES = {"median": median_precision, "covariance": covariance_precision}


def score_ksd(
    samples, score: Callable[[np.ndarray], np.ndarray], scale: str = "median"
) -> SteinDiscrepancy:
    """Return the squared kernel Stein discrepancy of samples from a score.

    Args:
        samples: (n, d).
        score: a function (n, d) -> (n, d).
        scale: of the kernel, "median" or "covariance".

    Raises:
        ValueError: the score has another shape, a value is not finite, or the scale is unknown.
    """
    x = finite_array("samples", samples, 2)
    if len(x) < 2 or scale not in SCALES:
        raise ValueError(
            f"need two or more samples and a scale of {sorted(SCALES)}, got {len(x)}, {scale!r}"
        )
    s = finite_array("the score", score(x), 2)
    if s.shape != x.shape:
        raise ValueError(f"need a score of shape {x.shape} like the samples, got {s.shape}")
    x = x - x.mean(0)
    precision = SCALES[scale](x)
    pulled = x @ precision  # P x
    whitened = x @ np.linalg.cholesky(precision)
    own = np.sum(s * pulled, 1)
    trace = np.trace(precision)
    sums = np.zeros(len(x))
    squares = 0.0
    for first in range(0, len(x), BLOCK):
        rows = slice(first, first + BLOCK)
        q = 1 + cdist(whitened[rows], whitened, "sqeuclidean")
        across = own[rows, None] + own - s[rows] @ pulled.T - pulled[rows] @ s.T
        bend = 3 * cdist(pulled[rows], pulled, "sqeuclidean")
        kernel = (s[rows] @ s.T) / q**0.5 + (across + trace) / q**1.5 - bend / q**2.5
        sums[rows] = kernel.sum(1)
        squares += np.sum(kernel**2)
    diagonal = np.sum(s**2, 1) + trace
    n = len(x)
    means = (sums - diagonal) / (n - 1)
    u = means.mean()
    of_pairs = (squares - np.sum(diagonal**2)) / (n * (n - 1)) - u**2
    of_points = max(0.0, means.var(ddof=1) - of_pairs / (n - 1))
    variance = 4 * of_points / n + 2 * of_pairs / n**2
    return SteinDiscrepancy(
        u_statistic=float(u),
        v_statistic=float(sums.sum() / n**2),
        std_error=float(np.sqrt(max(variance, 0.0))),
    )


def noised_score_ksd(
    samples,
    score: Callable[[np.ndarray, float], np.ndarray],
    levels: tuple[float, ...] = LEVELS,
    seed: int = 0,
) -> SteinDiscrepancy:
    r"""Return the sum of squared discrepancies of noised samples, :math:`\sum_s s^4 K_s`.

    :math:`K_s` is the squared discrepancy of :math:`x + s e` from the score of the law that such
    states should have. A score times :math:`s^2` is a distance from a state to its expected clean
    data (Tweedie), so that the sum is in squared units of the data, as squared distances of samples are.

    Args:
        samples: (n, d).
        score: of the law with noise added, a function of states (n, d) and the noise level.
        levels: s of the noise, from the data's smallest detail to their size and beyond.
        seed: of the noise.

    Returns:
        Sums of the statistics, and of their standard errors: the levels share their samples, so
        that this is the most that the error of the sum can be.

    Raises:
        ValueError: a level is not positive, or as for `score_ksd`.
    """
    x = finite_array("samples", samples, 2)
    if not levels or not all(level > 0 for level in levels):
        raise ValueError(f"need noise levels above 0, got {levels}; score_ksd takes clean samples")
    rng = np.random.default_rng(seed)
    totals = np.zeros(3)
    for level in levels:
        noised = x + level * rng.standard_normal(x.shape)
        totals += level**4 * np.array(score_ksd(noised, lambda z, s=level: score(z, s)))
    return SteinDiscrepancy(*totals.tolist())
