"""Nearest neighbours in blocks are those of brute force in float64, whatever float32 makes of them."""

import numpy as np
import pytest

from experiments.measures import neighbours
from experiments.measures.neighbours import CANDIDATES, k_nearest, nearest


def brute_force(a, b, same):
    squares = ((a[:, None].astype(float) - b[None].astype(float)) ** 2).sum(-1)
    if same:
        np.fill_diagonal(squares, np.inf)
    return np.sqrt(squares.min(1)), squares


CASES = {
    "grey levels": lambda rng: rng.integers(0, 256, (60, 700)).astype(np.uint8),
    "far from the origin": lambda rng: 1e6 + rng.standard_normal((50, 3)),
    "close pairs": lambda rng: (
        np.repeat(rng.standard_normal((30, 5)), 2, 0) + 1e-6 * rng.standard_normal((60, 5))
    ),
    "one far point": lambda rng: np.concatenate([rng.standard_normal((59, 2)), [[1e5, 0]]]),
    "ties": lambda rng: rng.integers(0, 3, (60, 2)),
    "one dimension": lambda rng: rng.standard_normal((60, 1)).astype(np.float32),
    "large numbers": lambda rng: 1e30 * rng.standard_normal((60, 3)),
    "equal points": lambda rng: np.ones((40, 3)),
    "two points": lambda rng: rng.standard_normal((2, 4)),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut points and features into blocks as large sets are, the last ones incomplete."""
    monkeypatch.setattr(neighbours, "ROWS", 16)
    monkeypatch.setattr(neighbours, "FEATURES", 128)


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_brute_force(name, small_blocks):
    a = CASES[name](np.random.default_rng(0))
    b = CASES[name](np.random.default_rng(1))
    for others, same in ((a, True), (b, False)):
        want, squares = brute_force(a, others, same)
        neighbours = nearest(a) if same else nearest(a, b)
        np.testing.assert_allclose(neighbours.distance, want, rtol=1e-12)
        chosen = squares[np.arange(len(a)), neighbours.index]
        np.testing.assert_allclose(np.sqrt(chosen), want, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if name != "two points"])
@pytest.mark.parametrize("k", [2, CANDIDATES])
def test_several_are_the_nearest_of_brute_force_in_order(name, k, small_blocks):
    a = CASES[name](np.random.default_rng(0))
    b = CASES[name](np.random.default_rng(1))
    for others, same in ((a, True), (b, False)):
        _, squares = brute_force(a, others, same)
        want = np.sqrt(np.sort(squares, axis=1)[:, :k])
        neighbours = k_nearest(a, k=k) if same else k_nearest(a, b, k)
        np.testing.assert_allclose(neighbours.distance, want, rtol=1e-12)
        chosen = np.take_along_axis(squares, neighbours.index, 1)
        np.testing.assert_allclose(np.sqrt(chosen), want, rtol=1e-12)
        assert all(len(set(row)) == k for row in neighbours.index)


def test_what_float32_cannot_tell_apart_is_measured():
    """Twenty points within 1e-5 of each other, 1e4 away from the mean: float32 products see no
    difference between them.
    """
    rng = np.random.default_rng(0)
    points = 1e4 * np.sign(rng.standard_normal((2, 64)))
    a = np.concatenate([p + 1e-5 * rng.standard_normal((20, 64)) for p in points])
    np.testing.assert_allclose(nearest(a).distance, brute_force(a, a, True)[0], rtol=1e-9)


def test_images_are_points_and_a_copy_is_at_no_distance():
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    neighbours = nearest(x[::-1], x)
    np.testing.assert_array_equal(neighbours.distance, 0)
    np.testing.assert_array_equal(neighbours.index, np.arange(20)[::-1])


def test_a_point_alone_has_no_neighbour():
    with pytest.raises(ValueError, match="need another point to be near to, got 1"):
        nearest(np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"points of shape \(2,\) are not near any of \(3,\)"):
        nearest(np.zeros((4, 2)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="all finite"):
        nearest(np.array([[1.0], [np.nan], [2.0]]))
    with pytest.raises(ValueError, match="need 2 other points to be near to, got 2"):
        k_nearest(np.zeros((2, 2)), k=2)
    with pytest.raises(ValueError, match="need 1 <= k <= 8 nearest points, got 9"):
        k_nearest(np.zeros((20, 2)), k=9)
