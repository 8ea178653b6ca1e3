r"""Mean and covariance of features in one pass, of parts that are measured apart and merged.

Two parts of :math:`n_a` and :math:`n_b` features have together the mean
:math:`m_a + (m_b - m_a)\, n_b / n` and the scatter
:math:`S_a + S_b + (m_b - m_a)(m_b - m_a)^T n_a n_b / n`, where a scatter is the sum of the products
of deviations from the mean (Chan, Golub and LeVeque 1983, eq. 2.1). No sum of squares is ever
taken of what has not been centred, so that nothing is lost where the mean is large.
"""

from typing import NamedTuple

import numpy as np

from .streaming import parts


class FeatureMoments(NamedTuple):
    """Number, mean and scatter of features, in float64."""

    count: int
    mean: np.ndarray  # (d,)
    scatter: np.ndarray  # (d, d), sum of the products of deviations from the mean

    @property
    def covariance(self) -> np.ndarray:
        """Return the unbiased covariances (d, d), as all published Frechet distances use them."""
        if self.count < 2:
            raise ValueError(f"a covariance takes two or more points, got {self.count}")
        return self.scatter / (self.count - 1)

    def add(self, features: np.ndarray) -> "FeatureMoments":
        """Return the moments of these and of more features (n, d); n may be 0."""
        return merge(self, measure_moments(features))


def measure_moments(features: np.ndarray) -> FeatureMoments:
    """Return the moments of features (n, d).

    Features of a stream or of several devices are measured in parts, each like this, and the
    results go to `merge`.

    Raises:
        ValueError: the features are not (n, d), or not all finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(
            f"need features (n, d), got shape {features.shape}; flatten each into a row"
        )
    width = features.shape[1]
    moments = FeatureMoments(count=0, mean=np.zeros(width), scatter=np.zeros((width, width)))
    for rows in parts(np.arange(len(features)), (width,)):
        moments = merge(moments, _of_block(features[rows].astype(np.float64)))
    return moments


def merge(*moments: FeatureMoments) -> FeatureMoments:
    """Return the moments of all features of which several parts were measured.

    Raises:
        ValueError: there are none, or they are of features of different widths.
    """
    if not moments:
        raise ValueError("need the moments of at least one part to merge, got none")
    widths = {part.mean.shape[0] for part in moments}
    if len(widths) > 1:
        raise ValueError(
            f"moments of features of the widths {sorted(widths)} cannot be merged; take the "
            "features of one network"
        )
    total, *others = moments
    for part in others:
        total = _pair(total, part)
    return total


def _of_block(features: np.ndarray) -> FeatureMoments:
    """Return the moments of one block of features."""
    if not np.isfinite(features).all():
        bad = (~np.isfinite(features)).any(1).sum()
        raise ValueError(
            f"{bad} of {len(features)} features are not finite; look for the images they are of"
        )
    mean = features.mean(0)
    centred = features - mean
    return FeatureMoments(count=len(features), mean=mean, scatter=centred.T @ centred)


def _pair(a: FeatureMoments, b: FeatureMoments) -> FeatureMoments:
    """Return the moments of two parts together."""
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    shift = b.mean - a.mean
    between = np.outer(shift, shift) * (a.count * b.count / count)
    return FeatureMoments(
        count=count,
        mean=a.mean + shift * (b.count / count),
        scatter=a.scatter + b.scatter + between,
    )
