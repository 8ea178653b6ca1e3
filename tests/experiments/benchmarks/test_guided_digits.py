"""The yardsticks of guidance on digits: accuracy, likeness within a class, variance within a class."""

import numpy as np
import pytest

from experiments.benchmarks.guided_digits import (
    Digits,
    conditional_scores,
    floor,
    judge_of,
    ways,
)

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 3, 3, 1)) * 4


def cloud(number, sd=1.0):
    """Return images of four classes around their centres."""
    label = np.arange(number) % 4
    return Digits(x=CENTRES[label] + sd * RNG.normal(size=(number, 3, 3, 1)), label=label)


@pytest.fixture(scope="module")
def real():
    return cloud(400)


@pytest.fixture(scope="module")
def judge(real):
    judge, accuracy = judge_of(real)
    assert accuracy.value > 0.97
    return judge


def test_samples_of_the_same_law_score_like_real_images(real, judge):
    """The 1-NN accuracy of 800 votes is off by 5 standard errors once in two million times."""
    scores = conditional_scores(cloud(400), real, judge)
    assert scores["accuracy"]["value"] > 0.97
    assert abs(scores["one_nn"]["value"] - 0.5) < 5 * scores["one_nn"]["std_error"]
    assert scores["variance"] == pytest.approx(1, abs=0.15)
    best = floor(real)
    assert abs(best["one_nn"]["value"] - 0.5) < 5 * best["one_nn"]["std_error"]
    assert best["variance"] == pytest.approx(1, abs=0.3)


def test_prototypes_have_their_class_but_not_its_variety(real, judge):
    scores = conditional_scores(cloud(400, sd=0.2), real, judge)
    assert scores["accuracy"]["value"] > 0.99
    assert scores["one_nn"]["value"] > 0.7
    assert scores["variance"] == pytest.approx(0.04, rel=0.3)


def test_samples_of_other_classes_are_found_out(real, judge):
    good = cloud(400)
    wrong = good._replace(label=np.where(np.arange(400) < 100, (good.label + 1) % 4, good.label))
    scores = conditional_scores(wrong, real, judge)
    accuracy = scores["accuracy"]
    assert accuracy["value"] == pytest.approx(0.75, abs=0.02)
    assert accuracy["std_error"] == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_classifiers_guide_only_where_one_is_named():
    assert not any("classifier" in section for section in ways(None).values())
    assert sum("classifier" in section for section in ways("runs/c").values()) == 4
