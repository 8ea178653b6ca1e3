import math

import numpy as np
import pytest

from experiments.data import Toy, batches, statistics
from experiments.data.toy import DENSITIES

KNOWN = [name for name, density in DENSITIES.items() if density.log_prob is not None]


def points(toy, split):
    source = toy.source(split)
    return np.stack([source[i]["x"] for i in range(len(source))]), np.array(
        [source[i]["label"] for i in range(len(source))]
    )


@pytest.mark.parametrize("name", DENSITIES)
def test_splits_are_independent_and_reproducible(name):
    toy = Toy(density=name, size=1000)
    splits = {split: points(toy, split)[0] for split in toy.splits}
    assert {split: len(x) for split, x in splits.items()} == {
        "train": 1000,
        "validation": 100,
        "test": 100,
    }
    every = np.concatenate(list(splits.values()))
    assert len(np.unique(every, axis=0)) == 1200 and every.dtype == np.float32
    np.testing.assert_array_equal(points(Toy(density=name, size=1000), "test")[0], splits["test"])
    assert not np.array_equal(
        points(Toy(density=name, size=1000, seed=1), "test")[0], splits["test"]
    )


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_have_about_unit_scale_and_labels_in_range(name):
    toy = Toy(density=name)
    result = statistics(toy, "train")
    assert abs(result.mean) < 0.15 and 0.6 < result.sd < 1.3 and max(-result.min, result.max) < 3
    labels = points(toy, "train")[1]
    assert set(labels) == set(range(max(toy.num_classes, 1)))


@pytest.mark.parametrize("name", DENSITIES)
def test_batches_are_the_points_themselves(name):
    toy = Toy(density=name, size=100)
    batch = next(batches(toy, "train", 100, seed=0, train=False))
    np.testing.assert_array_equal(batch["x"], points(toy, "train")[0])
    assert batch["x"].dtype == np.float32


@pytest.mark.parametrize("name", KNOWN)
def test_known_densities_integrate_to_one(name):
    n = 1200
    # cells of 1/200, whose edges include those of the checkerboard
    centres = -3 + 6 * (np.arange(n) + 0.5) / n
    grid = np.stack(np.meshgrid(centres, centres), -1)
    assert np.exp(Toy(density=name).log_prob(grid)).mean() * 36 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_samples_follow_the_known_density(name):
    """Importance identity: for any bounded w, E w(x)/p(x) over samples is the integral of w over
    the support.
    """
    toy = Toy(density=name)
    x = points(toy, "train")[0].astype(np.float64)
    log_prob = toy.log_prob(x)
    assert np.isfinite(log_prob).all()
    # counts of samples in cells of 1/2 against the integral of the density over them; the noise is
    # binomial
    n = 1200
    fine = -3 + 6 * (np.arange(n) + 0.5) / n
    mass = (
        np.exp(toy.log_prob(np.stack(np.meshgrid(fine, fine, indexing="ij"), -1)))
        .reshape(12, 100, 12, 100)
        .sum((1, 3))
        * (6 / n) ** 2
    )
    count = np.histogram2d(x[:, 0], x[:, 1], bins=12, range=[[-3, 3], [-3, 3]])[0]
    sd = np.sqrt(len(x) * mass * (1 - mass)) + 1
    assert (
        abs(count - len(x) * mass) < 5 * sd
    ).all()  # 144 cells at five standard deviations: a false alarm once in 10^4 seeds


def test_checkerboard_has_alternating_squares():
    log_prob = Toy(density="checkerboard").log_prob(
        np.array([[0.5, 0.5], [0.5, 1.5], [-0.5, 0.5], [-1.5, 0.5], [2.5, 0.5]])
    )
    np.testing.assert_allclose(
        log_prob, [-math.log(8), -math.inf, -math.inf, -math.log(8), -math.inf]
    )


def test_labels_of_the_mixture_are_its_components():
    x, label = points(Toy(density="mixture"), "train")
    angle = np.round(np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi / 8)).astype(int) % 8
    assert (angle == label).mean() > 0.98  # neighbouring means are 5.4 sd apart


def test_wrong_arguments_are_refused():
    with pytest.raises(
        ValueError,
        match="unknown density 'spiral'; choose one of checkerboard, mixture, moons, swiss_roll",
    ):
        Toy(density="spiral")
    with pytest.raises(ValueError, match="need size >= 10, got 3"):
        Toy(density="moons", size=3)
    with pytest.raises(
        ValueError,
        match="density of 'moons' has no closed form; it is known for checkerboard, mixture",
    ):
        Toy(density="moons").log_prob(np.zeros(2))
    with pytest.raises(
        ValueError, match="unknown split 'fit'; choose one of train, validation, test"
    ):
        Toy(density="moons").source("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(density=["moons"]), r"unknown density \['moons'\]"),
        (dict(size="abc"), "size must be a whole number, got 'abc'"),
        (dict(size=1e4), "size must be a whole number, got 10000.0"),
        (dict(size=10**12), "need size <= 100000000, got 1000000000000; lower it"),
        (dict(seed=-1), "need seed >= 0, got -1"),
        (dict(seed=2**64), "need seed <= 9223372036854775807"),
        (dict(seed=None), "seed must be a whole number, got None"),
    ],
)
def test_settings_of_other_kinds_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Toy(**{"density": "moons", **settings})


@pytest.mark.parametrize("name", KNOWN)
def test_densities_of_points_that_are_not_finite_or_no_points(name):
    toy = Toy(density=name)
    x = np.array([[np.nan, 0], [np.inf, 0], [0.5, 0.5], [1.4, -np.inf]])
    got = toy.log_prob(x)
    np.testing.assert_array_equal(got, [np.nan, -np.inf, toy.log_prob(x[2]), -np.inf])
    with pytest.raises(ValueError, match=r"points have shape \(..., 2\), got \(3,\)"):
        toy.log_prob(np.zeros(3))


def test_the_mixture_has_the_radius_and_the_width_that_are_stated():
    x, label = points(Toy(density="mixture"), "train")
    angle = 2 * np.pi * label / 8
    offsets = x - 1.4 * np.stack([np.cos(angle), np.sin(angle)], -1)
    n = offsets.size
    # five standard errors each, so a false alarm once in 10^6 seeds
    assert abs(offsets.mean()) < 5 * 0.2 / np.sqrt(n)
    assert abs(offsets.std() - 0.2) < 5 * 0.2 / np.sqrt(2 * n)
