r"""The Frechet distance of two sets of features, and what it would be with infinitely many samples.

For Gaussians with the means and covariances of the two sets (Heusel et al. 2017, arXiv:1706.08500)

.. math:: d^2 = |m_a - m_b|^2 + \operatorname{tr} C_a + \operatorname{tr} C_b
    - 2 \operatorname{tr} (F_a^T C_b F_a)^{1/2}, \qquad F_a F_a^T = C_a.

The product under the root is symmetric and has no negative eigenvalue, so that its trace is a sum
of real roots. :math:`F_a` has a column for each direction in which :math:`C_a` is not zero: a
singular covariance, as that of fewer images than features, is no exception.

Of n samples the distance is too large by about b / n (Chong and Forsyth 2020, arXiv:1911.07023,
section 3), with a b that depends on the model, so that even the order of two models may be wrong.
`extrapolated_frechet_distance` removes this.
"""

from typing import NamedTuple

import numpy as np

from ...data.joint_moments import FeatureMoments, measure_moments, merge


class ExtrapolatedDistance(NamedTuple):
    """A Frechet distance at n samples, and with infinitely many."""

    at_n: float  # of all samples together: the number that papers report
    n: int  # samples
    infinite: float  # where the line through `distances` meets 1 / n = 0
    std_error: float  # of `infinite`, over other samples of the same model
    sizes: np.ndarray  # (parts,) samples in each part, the mean where parts differ
    distances: np.ndarray  # (parts,) mean distance of the parts


class _Reference(NamedTuple):
    """Moments to which many distances are taken, with what all of these need of them."""

    mean: np.ndarray  # (d,)
    factor: np.ndarray  # (d, rank), whose product with its transpose is the covariance
    trace: float


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return the squared Frechet distance of Gaussians with these moments.

    Finite samples make it positive for equal distributions too: compare it with that of real data
    against real data at the same numbers, see `real_against_real`.

    Raises:
        ValueError: one is of fewer than two features, or they differ in width.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of width {len(a.mean)} and {len(b.mean)} have no distance; take both from "
            "one network"
        )
    if min(a.count, b.count) < 2:
        raise ValueError(f"a covariance takes two or more points, got {a.count} and {b.count}")
    return _distance(_prepared(a), b)


def extrapolated_frechet_distance(
    samples: np.ndarray,
    reference: FeatureMoments,
    parts: int = 5,
    groups: int = 20,
    seed: int = 0,
) -> ExtrapolatedDistance:
    r"""Return the Frechet distance of samples to a reference, extrapolated to infinitely many.

    The samples are cut into k = 1, ..., `parts` parts. The mean distance of the k parts, weighted
    by their sizes, is :math:`a + b\, k / n`, and a line through these means is followed to
    :math:`k / n = 0` (Chong and Forsyth 2020, arXiv:1911.07023, take random subsets instead). As
    each mean is over all samples, what is random in them to first order is the same for all k and
    does not bend the line.

    The standard error is the jackknife over `groups` random groups of samples: the whole is
    computed again without each of them. It takes about `groups` times `parts` squared / 2
    distances. It holds the randomness of the samples, not of the reference; and near the floor,
    where a model is as good as real data, it is only an order of magnitude.

    Args:
        samples: features (n, d).
        reference: moments of the real images.
        parts: the largest number of parts, 2 or more.
        groups: of the jackknife, at least twice as many as parts.
        seed: of the groups.

    Raises:
        ValueError: the smallest part has no more samples than features have dimensions, where the
            distance is no line in 1 / n; or a setting is out of range.
    """
    samples = np.asarray(samples)
    if parts < 2 or groups < 2 * parts:
        raise ValueError(
            f"need 2 or more parts and twice as many groups, got {parts} parts and {groups} groups"
        )
    if samples.ndim != 2 or samples.shape[1:] != reference.mean.shape:
        raise ValueError(
            f"need features (n, {len(reference.mean)}) as the reference has, got {samples.shape}"
        )
    if len(samples) // (parts + 1) <= samples.shape[1]:
        raise ValueError(
            f"{len(samples)} samples in {parts} parts leave too few for features of width "
            f"{samples.shape[1]}; take fewer parts, or more than "
            f"{(parts + 1) * (samples.shape[1] + 1)} samples"
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    atoms = [measure_moments(samples[order[first::groups]]) for first in range(groups)]
    prepared = _prepared(reference)
    numbers = np.arange(1, parts + 1)
    distances = _mean_distances(prepared, atoms, numbers)
    infinite = _at_zero(numbers, distances)
    without = [
        _at_zero(numbers, _mean_distances(prepared, atoms[:i] + atoms[i + 1 :], numbers))
        for i in range(groups)
    ]
    variance = (groups - 1) * np.var(without)
    return ExtrapolatedDistance(
        at_n=float(distances[0]),
        n=len(samples),
        infinite=infinite,
        std_error=float(np.sqrt(variance)),
        sizes=len(samples) / numbers,
        distances=distances,
    )


def _mean_distances(
    reference: _Reference, atoms: list[FeatureMoments], numbers: np.ndarray
) -> np.ndarray:
    """Return the mean distance of k parts of all samples, weighted by size, for each number k."""
    means = []
    for k in numbers:
        parts = [merge(*atoms[first::k]) for first in range(k)]
        sizes = [part.count for part in parts]
        means.append(np.average([_distance(reference, part) for part in parts], weights=sizes))
    return np.array(means)


def _at_zero(numbers: np.ndarray, distances: np.ndarray) -> float:
    """Return where the least-squares line through distances at k / n meets k = 0."""
    return float(np.polynomial.Polynomial.fit(numbers, distances, 1)(0.0))


def _prepared(moments: FeatureMoments) -> _Reference:
    """Return moments with the factor of their covariance."""
    covariance = moments.covariance
    values, vectors = np.linalg.eigh(covariance)
    # What is smaller is rounding: the bound by which numpy.linalg.matrix_rank goes.
    positive = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return _Reference(
        mean=moments.mean,
        factor=vectors[:, positive] * np.sqrt(values[positive]),
        trace=float(np.trace(covariance)),
    )


def _distance(a: _Reference, b: FeatureMoments) -> float:
    """Return the squared Frechet distance to a reference; rounding does not make it negative."""
    covariance = b.covariance
    products = np.linalg.eigvalsh(a.factor.T @ covariance @ a.factor)
    cross = np.sqrt(np.clip(products, 0, None)).sum()
    shift = np.sum((a.mean - b.mean) ** 2)
    return max(0.0, float(shift + a.trace + np.trace(covariance) - 2 * cross))
