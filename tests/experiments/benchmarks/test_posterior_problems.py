"""The nine exact problems: what they promise, and that their posterior samples are the posterior."""

import functools

import jax
import numpy as np
import pytest

from experiments.benchmarks.posterior_problems import kept_aside, problems
from sde_lib import VP

PROBLEMS = problems()
NAMES = list(PROBLEMS)


@pytest.fixture(params=NAMES)
def problem(request):
    return PROBLEMS[request.param]


@functools.cache
def scored(name):
    """Return a measurement, 2000 exact samples of its posterior, and the score at them."""
    problem = PROBLEMS[name]
    y = problem.draw(jax.random.key(4)).y
    x = problem.draw_posterior(jax.random.key(5), y, 2000)
    return y, x, problem.posterior_score(y)(x)


def test_there_are_nine_in_three_sizes_and_two_noises():
    assert len(NAMES) == 9
    assert {p.matrix.shape[1] for p in PROBLEMS.values()} == {2, 16, 64}
    assert {p.noise_std for p in PROBLEMS.values()} == {0.05, 0.5}
    assert all(name == p.name for name, p in PROBLEMS.items())


def test_data_have_size_one(problem):
    variances = np.diag(np.asarray(problem.data.data_moments().cov))
    assert variances.mean() == pytest.approx(1, rel=1e-5)
    assert problem.matrix.shape[1] == len(variances)


def test_a_measurement_is_of_its_data(problem):
    # The standard deviation of n m >= 300 normals: within 5 standard errors.
    drawn = problem.draw_many(jax.random.key(0), 300)
    noise = (drawn.y - drawn.x @ problem.matrix.T) / problem.noise_std
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    # Noise and data have nothing in common.
    common = noise.T @ drawn.x / np.sqrt(300) / drawn.x.std(0)
    assert np.all(np.abs(common) < 6)
    one = problem.draw(jax.random.key(0))
    again = problem.draw(jax.random.key(0))
    other = problem.draw(jax.random.key(1))
    assert one.x.shape == drawn.x.shape[1:] and one.y.shape == drawn.y.shape[1:]
    np.testing.assert_array_equal(one.y, again.y)
    assert not np.any(one.y == other.y)


def test_posterior_samples_obey_the_identities_of_their_score(problem):
    # E s = 0 and E (x - m) s^T = -I for the score s of the law of x: at most 64 + 2 numbers within
    # 5.5 standard errors, missed once in 3e5 runs for each problem.
    _, x, score = scored(problem.name)
    assert x.shape == score.shape == (2000, problem.matrix.shape[1])
    assert x.dtype == score.dtype == np.float64
    error = score.std(0) / np.sqrt(len(x))
    assert np.all(np.abs(score.mean(0)) < 5.5 * error)
    products = (x - x.mean(0)) * score
    for product, expected in ((products.sum(1), -x.shape[1]), (products[:, 0], -1)):
        assert abs(product.mean() - expected) < 5.5 * product.std() / np.sqrt(len(x))


def test_a_posterior_sample_is_as_good_as_the_truth(problem):
    # (x, y) and (x', y) with x' from the posterior have one law, so that |x - x'|-like statistics
    # agree: the mean of a^T x and its square over 40 measurements, within 5 standard errors.
    drawn = problem.draw_many(jax.random.key(6), 40)
    direction = np.random.default_rng(0).standard_normal(drawn.x.shape[1])
    replaced = np.stack(
        [problem.draw_posterior(jax.random.key(100 + i), y, 1)[0] for i, y in enumerate(drawn.y)]
    )
    for power in (1, 2):
        gap = (drawn.x @ direction) ** power - (replaced @ direction) ** power
        assert abs(gap.mean()) < 5 * gap.std() / np.sqrt(len(gap))


def test_the_score_is_the_slope_of_the_joint_density(problem):
    y, x, score = scored(problem.name)
    step = 1e-5 * np.random.default_rng(1).standard_normal(x.shape[1])
    ends = np.stack([x[0] + step, x[0] - step])
    with jax.enable_x64(True):
        log_prior = np.asarray(problem.data.log_prob(VP(), ends, 0.0))
    misfit = (y - ends @ problem.matrix.T) / problem.noise_std
    log_joint = log_prior - 0.5 * np.sum(misfit**2, 1)
    slope = log_joint[0] - log_joint[1]
    np.testing.assert_allclose(2 * step @ score[0], slope, rtol=1e-4, atol=1e-7)


def test_those_kept_aside_are_others_of_the_same_kinds():
    aside, others = kept_aside(0), kept_aside(1)
    assert list(aside) == NAMES
    for name, problem in PROBLEMS.items():
        for other in (aside[name], others[name]):
            assert other.matrix.shape == problem.matrix.shape
            assert other.noise_std == problem.noise_std
            of_data = [np.asarray(p.data.data_moments().cov) for p in (other, problem)]
            same_data = np.allclose(*of_data)
            assert not (same_data and np.allclose(other.matrix, problem.matrix))
    again = kept_aside(0)
    np.testing.assert_array_equal(aside[NAMES[3]].matrix, again[NAMES[3]].matrix)
