"""Frechet distances from moments of a stream, against scipy's formula and closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from experiments.measures.images import (
    FeatureMoments,
    extrapolated_frechet_distance,
    frechet_distance,
    measure_moments,
    merge,
)


def moments_of(mean, covariance, count=1000):
    return FeatureMoments(
        count=count,
        mean=np.asarray(mean, float),
        scatter=np.asarray(covariance, float) * (count - 1),
    )


def by_scipy(a, b):
    """Apply the published formula as it stands."""
    root = np.real(sqrtm(a.covariance @ b.covariance))
    shift = np.sum((a.mean - b.mean) ** 2)
    return shift + np.trace(a.covariance + b.covariance - 2 * root)


@pytest.mark.parametrize("cuts", [[], [1], [3, 3, 40], list(range(1, 60))])
def test_moments_are_those_of_numpy_however_the_stream_is_cut(cuts):
    """Far from the origin, where a sum of squares would have lost all digits."""
    features = 1e6 + np.random.default_rng(0).standard_normal((60, 4)) * [1, 2, 3, 4]
    streamed = measure_moments(features[:0])
    for part in np.split(features, cuts):
        streamed = streamed.add(part)
    merged = merge(*(measure_moments(part) for part in np.split(features, cuts)))
    for moments in (streamed, merged):
        assert moments.count == 60
        np.testing.assert_allclose(moments.mean, features.mean(0), rtol=1e-15)
        np.testing.assert_allclose(moments.covariance, np.cov(features.T), rtol=1e-9, atol=1e-9)


def test_blocks_inside_a_part_change_nothing(monkeypatch):
    features = np.random.default_rng(0).standard_normal((600, 5)).astype(np.float32)
    whole = measure_moments(features)
    monkeypatch.setattr("experiments.data.streaming.VALUES", 35)
    monkeypatch.setattr("experiments.data.streaming.parts.__defaults__", (35,))
    blocks = measure_moments(features)
    np.testing.assert_allclose(blocks.scatter, whole.scatter, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(blocks.covariance, np.cov(features.T.astype(float)), atol=1e-12)


@pytest.mark.parametrize("width, number", [(1, 50), (8, 50), (40, 200), (40, 30)])
def test_it_is_scipys_formula_also_for_fewer_features_than_dimensions(width, number):
    rng = np.random.default_rng(width + number)
    a = measure_moments(np.maximum(rng.standard_normal((number, width)), 0))
    b = measure_moments(np.maximum(rng.standard_normal((number + 5, width)) + 0.3, 0))
    # A root of a singular matrix is known to half of the digits: scipy's own error is 1e-6 there.
    tolerance = 1e-9 if number > width else 2e-6
    np.testing.assert_allclose(frechet_distance(a, b), by_scipy(a, b), rtol=tolerance)
    np.testing.assert_allclose(frechet_distance(b, a), frechet_distance(a, b), rtol=1e-6)


def test_it_is_the_closed_form_of_gaussians_with_common_axes():
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    stds = np.array([[0, 1, 2, 3, 0, 1e-3], [0, 2, 2, 0, 4, 1e3]])
    a, b = (moments_of(mean, axes * s**2 @ axes.T) for mean, s in zip((1, 3), stds, strict=True))
    a, b = a._replace(mean=np.full(6, 1.0)), b._replace(mean=np.full(6, 3.0))
    expected = 6 * 4 + np.sum((stds[0] - stds[1]) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-8)


def test_a_singular_covariance_is_at_no_distance_from_itself():
    features = np.random.default_rng(0).standard_normal((10, 64)) * 100
    moments = measure_moments(features)
    assert 0 <= frechet_distance(moments, moments) < 1e-9 * np.trace(moments.covariance)
    shifted = measure_moments(features + 1)
    np.testing.assert_allclose(frechet_distance(moments, shifted), 64, rtol=1e-6)


@pytest.fixture(scope="module")
def extrapolations():
    """Extrapolated distances of 40 sets of samples of a law with a known distance."""
    rng = np.random.default_rng(0)
    stds = np.linspace(0.8, 1.25, 10)
    reference = moments_of(np.zeros(10), np.eye(10))
    true = 0.01 * 10 + np.sum((stds - 1) ** 2)
    sets = 0.1 + stds * rng.standard_normal((40, 500, 10))
    return true, [extrapolated_frechet_distance(x, reference, parts=4) for x in sets]


def test_the_extrapolation_has_no_bias_where_the_distance_has_one(extrapolations):
    """Within four standard errors of the mean of 40: a false alarm in 16 000."""
    true, results = extrapolations
    infinite = np.array([result.infinite for result in results])
    error = infinite.std(ddof=1) / np.sqrt(40)
    assert abs(infinite.mean() - true) < 4 * error
    at_n = np.array([result.at_n for result in results])
    assert at_n.mean() - true > 8 * error


def test_the_standard_error_of_the_extrapolation_is_what_it_varies_by(extrapolations):
    """A standard deviation of 40 values is off by 11 %; within 4 of these, one false alarm in 16 000."""
    _, results = extrapolations
    ratio = np.std([r.infinite for r in results], ddof=1) / np.mean([r.std_error for r in results])
    assert abs(ratio - 1) < 4 * 0.11


def test_the_parts_of_the_extrapolation(extrapolations):
    _, results = extrapolations
    result = results[0]
    assert result.n == 500
    np.testing.assert_allclose(result.sizes, [500, 250, 500 / 3, 125])
    assert result.distances[0] == result.at_n
    assert (np.diff(result.distances) > 0).all()


def test_the_first_distance_is_that_of_all_samples():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((97, 3))
    reference = measure_moments(rng.standard_normal((50, 3)) + 1)
    result = extrapolated_frechet_distance(samples, reference, parts=3, groups=7)
    np.testing.assert_allclose(
        result.at_n, frechet_distance(measure_moments(samples), reference), rtol=1e-9
    )


def test_what_cannot_be_measured_is_refused():
    good = measure_moments(np.random.default_rng(0).standard_normal((20, 3)))
    with pytest.raises(ValueError, match="two or more points, got 1 and 20"):
        frechet_distance(measure_moments(np.zeros((1, 3))), good)
    with pytest.raises(ValueError, match="two or more points, got 1$"):
        _ = measure_moments(np.zeros((1, 3))).covariance
    with pytest.raises(ValueError, match="width 2 and 3 have no distance"):
        frechet_distance(measure_moments(np.eye(2)), good)
    with pytest.raises(ValueError, match=r"widths \[2, 3\] cannot be merged"):
        merge(measure_moments(np.eye(2)), good)
    with pytest.raises(ValueError, match="at least one part"):
        merge()
    with pytest.raises(ValueError, match="1 of 3 features are not finite"):
        measure_moments(np.array([[1.0], [np.nan], [2.0]]))
    with pytest.raises(ValueError, match=r"\(n, d\), got shape \(2, 8, 8\)"):
        measure_moments(np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="leave too few for features of width 3"):
        extrapolated_frechet_distance(np.zeros((20, 3)), good)
    with pytest.raises(ValueError, match="got 5 parts and 8 groups"):
        extrapolated_frechet_distance(np.zeros((200, 3)), good, groups=8)
    with pytest.raises(ValueError, match=r"need features \(n, 3\)"):
        extrapolated_frechet_distance(np.zeros((200, 4)), good)
