"""The yardsticks of the benchmarks, against brute force and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from experiments.benchmarks import deterministic, recommendation, stochastic
from experiments.benchmarks.mixtures import Mixture, family, flow_end
from experiments.benchmarks.problems import problems
from samplers import DPMpp2M, grids, probability_flow, sample
from sde_lib import VP, GaussianMixture, in_float64


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return rng.standard_normal((300, 2)) * [1.0, 0.3], rng.standard_normal((300, 2)) + [0.5, 0.0]


def test_the_energy_distance_is_that_of_all_pairs(sets):
    x, y = sets
    expected = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    # 32 directions instead of all
    assert stochastic.distances(x, y)[1] == pytest.approx(expected, rel=5e-3)


def test_the_sliced_distance_of_a_shift_is_its_share_in_every_direction(sets):
    x, _ = sets
    assert stochastic.distances(x, x + [0.3, 0.4])[0] == pytest.approx(0.5 / np.sqrt(2))
    assert stochastic.distances(x, x) == (0, pytest.approx(0))


def test_exact_draws_have_the_moments_of_the_problem():
    problem = problems("gmm2 VP")["gmm2 VP"]
    mean, cov = problem.data.data_moments()
    x = stochastic.exact(problem, 0.5, 0)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), cov + 0.25 * np.eye(2), atol=0.02)


@pytest.mark.parametrize("title", ["gaussian VE", "gaussian sub-VP"])
def test_the_closed_ends_are_those_of_an_adaptive_solver(title):
    with jax.enable_x64(True):
        problem = problems(title)[title]
        x, sde = problem.x[::73], problem.sde
        ends = probability_flow(
            problem.data.denoiser(sde),
            sde,
            jnp.asarray(x),
            end=1e-3,
            rtol=1e-8,
            atol=1e-8,
            denoise_last=False,
        ).x
        np.testing.assert_allclose(
            ends / sde.marginal(jnp.asarray(1e-3))[0], problem.y[::73], rtol=1e-6
        )


def test_the_error_is_that_at_the_known_end():
    with jax.enable_x64(True):
        problem = problems("gaussian VP")["gaussian VP"]
        ts = grids.log_snr(problem.sde, 20)
        error = deterministic.error(DPMpp2M(), problem, ts)
        assert 1e-5 < error < 5e-3
        moved = deterministic.error(DPMpp2M(), problem._replace(y=problem.y + 1), ts)
        assert moved == pytest.approx(1, abs=2 * error)


@pytest.mark.parametrize("title", ["6: even, d = 3", "10: far apart, imbalanced, d = 12"])
def test_the_estimates_in_numpy_are_those_of_the_package(title):
    mixture = family(1)[title].scaled(2.0)
    assert mixture.sd() == pytest.approx(2)
    bases = np.eye(12)[None] if mixture.bases is None else mixture.bases
    covs = np.einsum("kij,kj,klj->kil", bases, mixture.variances, bases)
    data = GaussianMixture(mixture.weights, mixture.means, covs)
    with jax.enable_x64(True):
        _, cov = data.data_moments()
        assert np.sqrt(np.trace(cov) / len(cov)) == pytest.approx(2)
        x = 3 * np.random.default_rng(0).standard_normal((5, len(cov)))
        for t in (0.9, 0.3):
            expected = data.estimate(VP(), jnp.asarray(x), t)
            clean, noise = mixture.estimate(x, *(float(a) for a in VP().marginal(jnp.asarray(t))))
            np.testing.assert_allclose(clean, expected.x0, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(noise, expected.noise, rtol=1e-8, atol=1e-10)


def test_the_flow_of_one_gaussian_ends_where_it_should_also_from_pure_noise():
    mixture = Mixture(np.ones(1), np.array([[2.0, -1.0]]), np.array([[9.0, 0.25]]), None)
    x = np.random.default_rng(0).standard_normal((4, 2))
    np.testing.assert_allclose(flow_end(mixture, x, 0.0, 1.0), [2, -1] + [3, 0.5] * x, rtol=1e-7)
    scale = np.sqrt(np.array([9.0, 0.25]) / (np.array([9.0, 0.25]) * 0.64 + 0.36))
    expected = [2, -1] + scale * (x - 0.8 * np.array([2, -1]))
    np.testing.assert_allclose(flow_end(mixture, x, 0.8, 0.6), expected, rtol=1e-7)


def test_a_walk_in_numpy_is_that_of_the_package():
    mixture, sde, ts = family(1)["0: even, d = 2"], VP(), grids.log_snr(VP(), 4)
    setting = {"one": (DPMpp2M(), recommendation.levels(sde, ts))}
    plans = recommendation.planned(setting)
    x = np.random.default_rng(0).standard_normal((3, 2))
    walked = recommendation.walk(
        mixture, *plans["one"], x / np.hypot(*in_float64(sde.marginal, 1.0))
    )
    assert mixture.bases is not None
    covs = np.einsum("kij,kj,klj->kil", mixture.bases, mixture.variances, mixture.bases)
    denoise = GaussianMixture(mixture.weights, mixture.means, covs).denoiser(sde)
    key = jax.random.key(0)
    expected = sample(key, DPMpp2M(), denoise, sde, ts, jnp.asarray(x, jnp.float32)).x
    np.testing.assert_allclose(walked, expected, rtol=1e-3, atol=1e-4)


def test_the_summary_counts_ratios_to_the_best_in_hindsight():
    records = [
        {"errors": {"recommended": 2.0, "DPMpp2M, a": 1.0, "UniPC2, a": 4.0}},
        {"errors": {"recommended": 2.0, "DPMpp2M, a": 8.0, "UniPC2, a": 1.0}},
    ]
    ratios = recommendation.summary(records)
    assert ratios["best_single"] == "UniPC2, a" and ratios["single"] == pytest.approx(1)
    assert ratios["own_mean"] == pytest.approx(2) and ratios["own_worst"] == pytest.approx(2)
    assert ratios["plain_worst"] == pytest.approx(2)


def test_every_setting_spends_the_same():
    for name, (_, levels) in recommendation.settings(VP(), 7, 0.3).items():
        assert len(levels) == 7, name
