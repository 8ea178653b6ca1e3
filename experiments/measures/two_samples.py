r"""How far are two sets of samples apart? Sliced distances and a classifier, in float64.

The sliced Wasserstein distance is :math:`(\frac1L \sum_l W_2^2)^{1/2}` over L directions, each a
distance of one-dimensional quantile functions. The classifier test trains to tell the sets apart
(Lopez-Paz and Oquab 2017, arXiv:1610.06545): an accuracy of 0.5 is a set of one law.
"""

from typing import Any, NamedTuple

import numpy as np

from .calibration import finite_array
from .metrics import Proportion

DIRECTIONS = 128


class SlicedDistance(NamedTuple):
    """A sliced Wasserstein distance beside what two exact sets of the same sizes have."""

    value: float
    floor: float
    ratio: float  # 1: as near as exact samples


def sliced_w2(a, b, directions: np.ndarray | int = DIRECTIONS, seed: int = 0) -> float:
    """Return the sliced Wasserstein-2 distance of two sets (n, d) and (m, d).

    Args:
        a: (n, d).
        b: (m, d).
        directions: unit vectors (L, d), or how many random ones.
        seed: of the random ones.

    Raises:
        ValueError: the sets have other dimensions than each other, or are not finite.
    """
    a, b = _pair(a, b)
    lines = np.asarray(directions)
    if lines.ndim == 0:
        lines = np.random.default_rng(seed).standard_normal((int(lines), a.shape[1]))
        lines = lines / np.linalg.norm(lines, axis=1, keepdims=True)
    # Between these levels both quantile functions are constant.
    levels = np.union1d(np.arange(len(a) + 1) / len(a), np.arange(len(b) + 1) / len(b))
    widths = np.diff(levels)
    middle = levels[1:] - widths / 2
    of_a = (middle * len(a)).astype(int)
    of_b = (middle * len(b)).astype(int)
    squares = [
        np.sum(widths * (np.sort(a @ line)[of_a] - np.sort(b @ line)[of_b]) ** 2) for line in lines
    ]
    return float(np.sqrt(np.mean(squares)))


def sliced_w2_over_floor(samples, exact, exact_again, seed: int = 0) -> SlicedDistance:
    """Return the distance of samples from exact ones, and the floor.

    Args:
        samples: (n, d), of a method.
        exact: (m, d).
        exact_again: (n, d), exact ones that share nothing with `exact`.
        seed: of the directions.

    Raises:
        ValueError: `exact_again` has another shape than `samples`.
    """
    if np.shape(samples) != np.shape(exact_again):
        raise ValueError(
            "need as many exact samples for the floor as there are samples, "
            f"got {np.shape(exact_again)} and {np.shape(samples)}"
        )
    value = sliced_w2(samples, exact, seed=seed)
    floor = sliced_w2(exact_again, exact, seed=seed)
    return SlicedDistance(value=value, floor=floor, ratio=value / floor)


def c2st(a, b, classifier: Any = None, folds: int = 5, seed: int = 0) -> Proportion:
    """Return the accuracy of a classifier that tells two sets (n, d) apart, cross-validated.

    Args:
        a: (n, d).
        b: (n, d), as many.
        classifier: of scikit-learn; a random forest by default.
        folds: of the cross-validation.
        seed: of the folds and the forest.

    Raises:
        ValueError: the sets differ in shape, so that a guess would not be right half of the time.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    a, b = _pair(a, b)
    if len(a) != len(b) or len(a) < folds:
        raise ValueError(
            f"need two sets of the same size, at least {folds}, got {len(a)} and {len(b)}"
        )
    if classifier is None:
        classifier = RandomForestClassifier(100, min_samples_leaf=5, random_state=seed)
    points = np.concatenate([a, b])
    points = (points - points.mean(0)) / np.maximum(points.std(0), np.finfo(float).tiny)
    labels = np.repeat([0, 1], len(a))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    right = cross_val_predict(classifier, points, labels, cv=split) == labels
    return Proportion.of(right)


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of points of the same dimension in float64."""
    a, b = finite_array("the first set", a, 2), finite_array("the second set", b, 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"need sets of the same dimension, got {a.shape} and {b.shape}")
    return a, b
