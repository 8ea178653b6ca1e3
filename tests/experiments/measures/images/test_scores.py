"""The scores of an evaluation are those of the measures, and real images stand beside samples."""

import numpy as np
import pytest

from experiments.measures.images import (
    frechet_distance,
    kernel_distance,
    measure_moments,
    nearest_training,
)
from experiments.measures.images.feature_network import ImageFeatures
from experiments.measures.images.scores import (
    RealFeatures,
    frechet,
    image_scores,
    real_scores,
    score_table,
)


def features(seed, number, shift=0.0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((number, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return ImageFeatures(rng.standard_normal((number, 4)) + shift, probabilities)


@pytest.fixture
def real():
    training = features(0, 400).features
    return RealFeatures(measure_moments(training), training, features(1, 90))


def test_each_score_is_that_of_its_measure(real):
    fake = features(2, 60, shift=0.5)
    fake.features[7] = real.training[11]  # a copy
    labels = np.arange(60) % 3
    scores = image_scores(fake, real, labels)
    some = real.training[np.unique(np.linspace(0, 399, 60).astype(int))]
    assert scores["images"] == 60
    direct = frechet_distance(measure_moments(fake.features), real.moments)
    assert scores["frechet_train"]["value"] == pytest.approx(direct, rel=1e-12)
    held_out = measure_moments(real.held_out.features)
    direct = frechet_distance(measure_moments(fake.features), held_out)
    assert scores["frechet_held_out"]["value"] == pytest.approx(direct, rel=1e-12)
    assert scores["kernel_train"] == kernel_distance(fake.features, some)._asdict()
    right = np.mean(fake.probabilities.argmax(1) == labels)
    assert scores["accuracy"]["value"] == right
    assert scores["accuracy"]["std_error"] == pytest.approx(np.sqrt(right * (1 - right) / 60))
    ratio = nearest_training(fake.features, real.training).ratio
    assert scores["memorised"]["value"] == np.mean(ratio < 1 / 3) >= 1 / 60
    assert 1 < scores["inception_score"]["value"] < 3


def test_the_distance_is_extrapolated_where_there_are_samples_enough():
    reference = measure_moments(features(0, 40_000).features)
    # at a squared distance of 1 in each of 4 dimensions
    fake = features(2, 600, shift=1.0).features
    scores = frechet(fake, reference)
    assert abs(scores["infinite"] - 4) < 3 * scores["infinite_std_error"] < 0.7
    assert scores["infinite"] < scores["value"]
    assert frechet(fake[:29], reference).keys() == {"value"}  # five parts of 5 in 4 dimensions


def test_held_out_images_stand_for_samples(real):
    scores = real_scores(real, 1000, labels=None)
    assert scores["images"] == 90 and not {"frechet_held_out", "accuracy"} & scores.keys()
    again = image_scores(real.held_out, real)
    assert scores["kernel_train"] == again["kernel_train"]
    few = real_scores(real, 30, labels=np.arange(90) % 3)
    assert few["images"] == 30 and "accuracy" in few


def test_moments_alone_give_the_frechet_distance_alone(real):
    scores = image_scores(features(2, 60), real._replace(training=None))
    assert "frechet_train" in scores and not {"precision", "kernel_train"} & scores.keys()


def test_too_few_images_are_refused(real):
    with pytest.raises(ValueError, match="need 20 or more images to compare, got 19"):
        image_scores(features(2, 19), real)


def test_the_table_has_a_cell_for_every_score(real):
    rows = {"ddim": image_scores(features(2, 60), real), "real data": real_scores(real, 60, None)}
    lines = score_table(rows)
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    kernel = rows["ddim"]["kernel_train"]
    assert f"{1000 * kernel['value']:.2f} ± {1000 * kernel['std_error']:.2f}" in lines[2]
    assert lines[2].startswith("| ddim | 60 |") and "right class" not in lines[0]
