"""Inception score, manifolds, real against real, memorisation: against their definitions."""

import numpy as np
import pytest
from PIL import Image
from scipy.special import comb, softmax
from sklearn.neighbors import NearestNeighbors

from experiments.measures.images import (
    compare_manifolds,
    draw_nearest,
    inception_score,
    manifolds,
    nearest_training,
    real_against_real,
)


def test_the_inception_score_is_between_1_and_the_number_of_classes():
    np.testing.assert_allclose(inception_score(np.full((40, 5), 0.2))[:2], (1, 0), atol=1e-12)
    classes = np.tile(np.eye(5), (20, 1))
    np.testing.assert_allclose(inception_score(classes, splits=1)[:2], (5, 0), atol=1e-9)


@pytest.mark.parametrize("order", ["sorted", "in turn"])
def test_the_order_of_the_images_does_no_harm(order):
    """Parts that were every tenth image would hold two classes of ten where they come in turn."""
    rows = np.arange(1000) % 10
    rows = np.sort(rows) if order == "sorted" else rows
    score = inception_score(np.eye(10)[rows])
    # 100 images of 10 equal classes: the entropy is below log 10 by about 9 / (2 * 100)
    assert score.value == pytest.approx(10 * np.exp(-9 / 200), rel=0.02)


def test_the_inception_score_is_the_definition():
    probabilities = softmax(np.random.default_rng(0).standard_normal((21, 3)) * 2, axis=1)
    scores = []
    shuffled = probabilities[np.random.default_rng(0).permutation(21)]
    for part in (shuffled[0::2], shuffled[1::2]):
        divergences = [np.sum(p * np.log(p / part.mean(0))) for p in part]
        scores.append(np.exp(np.mean(divergences)))
    score = inception_score(probabilities, splits=2)
    np.testing.assert_allclose(score, (np.mean(scores), np.std(scores), 2), rtol=1e-12)


def test_what_are_no_probabilities_is_refused():
    with pytest.raises(ValueError, match="take the softmax of logits"):
        inception_score(np.ones((40, 5)))
    with pytest.raises(ValueError, match="smallest one of -0.5"):
        inception_score(np.tile([1.5, -0.5], (40, 1)))
    with pytest.raises(ValueError, match="each of 10 parts, got 19; lower splits"):
        inception_score(np.full((19, 2), 0.5))


def by_scikit_learn(generated, real, k):
    """Apply the definitions with the neighbours that scikit-learn finds by brute force."""

    def radii(points):
        model = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points)
        return model.kneighbors(points)[0][:, -1]  # the first is the point itself

    distances = np.linalg.norm(real[:, None] - generated[None], axis=-1)
    in_ball_of_real = distances <= radii(real)[:, None]
    in_ball_of_generated = distances <= radii(generated)
    return (
        in_ball_of_real.any(0).mean(),
        in_ball_of_generated.any(1).mean(),
        in_ball_of_real.sum() / (k * len(generated)),
        in_ball_of_real.any(1).mean(),
        k,
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [1, 200, 2**22])
def test_manifolds_are_those_of_scikit_learn_in_blocks_of_any_size(k, block, monkeypatch):
    monkeypatch.setattr(manifolds, "BLOCK", block)
    rng = np.random.default_rng(k)
    real = 1e3 + rng.standard_normal((60, 4))
    generated = 1e3 + 0.3 + 0.8 * rng.standard_normal((45, 4))
    expected = by_scikit_learn(generated, real, k)
    np.testing.assert_allclose(compare_manifolds(generated, real, k), expected, rtol=1e-12)
    assert expected[1] > 0.1  # the sets overlap


def test_points_on_the_surface_of_a_ball_are_inside():
    """On a line of whole numbers all neighbours are at the surface, and copies in the centre.

    Every inner ball of k = 2 reaches 1 and holds three points, the two outer ones reach 2 and hold
    three as well.
    """
    direction = np.random.default_rng(0).standard_normal(7)  # so that distances are rounded
    line = np.arange(20.0)[:, None] * direction
    np.testing.assert_allclose(compare_manifolds(line, line, 2), (1, 1, 1.5, 1, 2))
    # With k = 1 the neighbours on both sides are equally far, but for rounding: 18 balls hold
    # three points and two hold two.
    np.testing.assert_allclose(compare_manifolds(line, line, 1), (1, 1, 2.9, 1, 1))
    same = np.ones((10, 3)) * 0.1
    np.testing.assert_allclose(compare_manifolds(same, same, 3), (1, 1, 10 / 3, 1, 3))
    far = compare_manifolds(line + 100, line, 2)
    np.testing.assert_allclose(far, (0, 0, 0, 0, 2))


def test_density_and_coverage_of_equal_laws_are_what_they_should_be():
    """Density 1 and the closed form of coverage (Naeem et al., lemma 2), whatever the law.

    Over 60 pairs of sets; within four standard errors, a false alarm in 16 000.
    """
    rng = np.random.default_rng(0)
    results = [compare_manifolds(*rng.standard_normal((2, 80, 3)), k=3) for _ in range(60)]
    error = np.std(results, axis=0, ddof=1) / np.sqrt(60)
    mean = np.mean(results, axis=0)
    # None of the k nearest real ones and of the generated ones is nearer than the k-th real one.
    expected = 1 - comb(79, 3) / comb(159, 3)
    assert abs(mean[2] - 1) < 4 * error[2]
    assert abs(mean[3] - expected) < 4 * error[3]


def test_dropped_modes_lower_recall_and_coverage_only():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.standard_normal((50, 2)), 20 + rng.standard_normal((50, 2))])
    one_mode = rng.standard_normal((100, 2))
    result = compare_manifolds(one_mode, real)
    assert result.precision > 0.9 and result.recall < 0.6
    assert result.density > 0.9 and result.coverage < 0.6


def test_what_has_no_manifold_is_refused():
    points = np.random.default_rng(0).standard_normal((6, 2))
    with pytest.raises(ValueError, match="k = 5 with 6 generated and 5 real"):
        compare_manifolds(points, points[:5])
    with pytest.raises(ValueError, match="one network"):
        compare_manifolds(points, points[:, :1])


def test_real_images_are_compared_with_other_ones_at_the_same_number():
    real = np.arange(30)
    seen = []

    def measure(samples, data):
        assert not set(samples) & set(data)
        seen.append((len(samples), len(data)))
        return samples.mean() - data.mean()

    floor = real_against_real(measure, real, number=10, against=15, repeats=4)
    assert seen == [(10, 15)] * 4
    assert floor[2:] == (10, 15, 4)
    assert floor.spread > 0
    again = real_against_real(measure, real, number=10, against=15, repeats=4)
    assert again == floor
    assert real_against_real(measure, real, number=15)[2:4] == (15, 15)
    values = []
    real_against_real(lambda a, b: values.append(a.sum()) or values[-1], real, 15, repeats=3)
    assert len(set(values)) == 3
    with pytest.raises(ValueError, match=r"16 \+ 16 different real images, got 30"):
        real_against_real(measure, real, number=16)
    with pytest.raises(ValueError, match="2 or more repeats"):
        real_against_real(measure, real, number=5, repeats=1)


def test_a_copy_has_the_ratio_0_and_a_new_image_one_near_1():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
    new = rng.integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    near = training[7:8].copy()
    near[0, 0, 0, 0] ^= 8
    samples = np.concatenate([training[3:5], near, new])
    result = nearest_training(samples, training)
    assert result.copies == 2
    np.testing.assert_array_equal(result.index[:3], [3, 4, 7])
    np.testing.assert_allclose(result.distance[:3], [0, 0, 8])
    assert (result.ratio[3:] > 0.8).all() and (result.ratio <= 1).all()
    np.testing.assert_allclose(result.share(), 3 / 23)
    squares = ((samples[:, None].astype(float) - training[None]) ** 2).sum((2, 3, 4))
    two = np.sqrt(np.sort(squares, axis=1)[:, :2])
    np.testing.assert_allclose(result.distance, two[:, 0])
    np.testing.assert_allclose(result.second, two[:, 1])
    twice = nearest_training(training[:4], np.concatenate([training, training]))
    np.testing.assert_array_equal(twice.ratio, 0)  # also of an image that occurs twice


def grey_levels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_the_picture_shows_the_pairs_of_the_lowest_ratios(tmp_path):
    rng = np.random.default_rng(0)
    training = rng.integers(0, 100, (12, 8, 8, 1)).astype(np.uint8)
    samples = rng.integers(0, 100, (9, 8, 8, 1)).astype(np.uint8)
    samples[5] = training[2]
    samples[5, 0, 0], training[2, 0, 0] = 255, 254
    memorisation = nearest_training(samples, training)
    path = tmp_path / "nearest.png"
    draw_nearest(path, samples, training, memorisation, count=1)
    picture = grey_levels(path)
    lower = picture[int(0.6 * len(picture)) :]  # there is the training image, without any text
    assert (lower == 254).sum() > 50
    draw_nearest(path, samples.repeat(3, -1), training.repeat(3, -1), memorisation)
    assert grey_levels(path).shape[1] > picture.shape[1]
    with pytest.raises(ValueError, match="need samples as uint8"):
        draw_nearest(path, samples / 255, training, memorisation)
    with pytest.raises(ValueError, match="need training images as uint8"):
        draw_nearest(path, samples, training[..., 0], memorisation)
    with pytest.raises(ValueError, match="of 9 samples .* there are 8 and 12"):
        draw_nearest(path, samples[:8], training, memorisation)
