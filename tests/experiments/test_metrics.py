import numpy as np
import pytest
from scipy.linalg import sqrtm

from experiments.metrics import (
    frechet_distance,
    nearest_distances,
    nearest_neighbour_accuracy,
    pooled_pixels,
)


def exactly(mean, root, rng, n=200):
    """Return n points whose sample mean and covariance are exactly `mean` and root root^T / (n - 1)."""
    z = rng.standard_normal((n, root.shape[1]))
    q, _ = np.linalg.qr(z - z.mean(0))
    return mean + q @ root.T


@pytest.mark.parametrize("rank", [5, 2])
def test_frechet_distance_of_gaussians_is_the_closed_form(rank):
    rng = np.random.default_rng(0)
    means, roots = rng.standard_normal((2, 5)), rng.standard_normal((2, 5, rank))
    covs = roots @ roots.transpose(0, 2, 1) / 199
    expected = (
        np.sum((means[0] - means[1]) ** 2)
        + np.trace(covs.sum(0))
        - 2 * np.trace(sqrtm(covs[0] @ covs[1])).real
    )
    a, b = (exactly(m, r, rng) for m, r in zip(means, roots, strict=True))
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-6)


def test_frechet_distance_of_one_feature_and_of_commuting_covariances():
    rng = np.random.default_rng(0)
    a, b = (
        exactly(np.zeros(1), np.array([[2.0]]), rng),
        exactly(np.ones(1) * 3, np.array([[5.0]]), rng),
    )
    np.testing.assert_allclose(frechet_distance(a, b), 9 + (2 - 5) ** 2 / 199)
    np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-12)


def brute_force_votes(a, b):
    """Apply the definition to each of the pooled points: own neighbour nearer 1, other nearer 0, a tie 1/2."""
    votes = []
    for own, other in ((a, b), (b, a)):
        for i, p in enumerate(own):
            near = min(np.linalg.norm(p - q) for j, q in enumerate(own) if j != i)
            far = min(np.linalg.norm(p - q) for q in other)
            votes.append(1.0 if near < far else 0.5 if near == far else 0.0)
    return np.array(votes)


def test_nearest_neighbour_accuracy_is_the_definition_ties_included():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (2, 40, 2)).astype(float)  # on a grid, so that there are ties
    votes = brute_force_votes(a, b)
    assert (votes == 0.5).any()
    got = nearest_neighbour_accuracy(a, b)
    np.testing.assert_allclose(got.value, votes.mean())
    np.testing.assert_allclose(got.std_error, np.sqrt(votes.mean() * (1 - votes.mean()) / 80))


def test_equal_distributions_cannot_be_told_apart():
    rng = np.random.default_rng(0)
    values = [nearest_neighbour_accuracy(*rng.standard_normal((2, 200, 3))) for _ in range(20)]
    # the votes of neighbours are correlated: allow twice the binomial error. 4 sigma: a false alarm in 16 000
    assert abs(np.mean([v.value for v in values]) - 0.5) < 4 * 2 * values[0].std_error / np.sqrt(20)


def test_disjoint_sets_are_told_apart_and_copies_give_themselves_away():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((100, 3))
    assert nearest_neighbour_accuracy(a, a + 100).value == 1
    assert nearest_neighbour_accuracy(a, a + 1e-6).value == 0
    assert nearest_neighbour_accuracy(np.zeros((10, 3)), np.zeros((10, 3))).value == 0.5
    with pytest.raises(ValueError, match="equal sizes, got 100 and 99"):
        nearest_neighbour_accuracy(a, a[1:])


def test_nearest_distances_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20, 3)), rng.standard_normal((30, 3))
    across = np.array([min(np.linalg.norm(p - q) for q in b) for p in a])
    within = np.array(
        [min(np.linalg.norm(p - q) for j, q in enumerate(a) if j != i) for i, p in enumerate(a)]
    )
    np.testing.assert_allclose(nearest_distances(a, b), across)
    np.testing.assert_allclose(nearest_distances(a), within)
    assert nearest_distances(a, a).max() == 0


def test_pooling_averages_blocks_and_keeps_small_images_and_vectors():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 16, 25, 3)).astype(np.uint8)
    pooled = pooled_pixels(x).reshape(2, 8, 8, 3)
    np.testing.assert_allclose(
        pooled[1, 2, 7, 0], x[1, 4:6, 21:24, 0].astype(float).mean()
    )  # blocks of 2 x 3; the 25th column is left over
    small = x[:, :8, :8]
    np.testing.assert_array_equal(pooled_pixels(small), small.reshape(2, -1))
    np.testing.assert_array_equal(pooled_pixels(np.eye(3)), np.eye(3))
