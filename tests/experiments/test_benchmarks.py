"""The yardsticks of the benchmarks, against brute force and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from experiments.benchmarks import deterministic, stochastic
from experiments.benchmarks.problems import problems
from samplers import DPMpp2M, grids, probability_flow


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    return rng.standard_normal((300, 2)) * [1.0, 0.3], rng.standard_normal((300, 2)) + [0.5, 0.0]


def test_the_energy_distance_is_that_of_all_pairs(sets):
    x, y = sets
    expected = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert stochastic.distances(x, y)[1] == pytest.approx(
        expected, rel=5e-3
    )  # 32 directions instead of all


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
        found = probability_flow(
            problem.data.denoiser(sde),
            sde,
            jnp.asarray(x),
            rtol=1e-8,
            atol=1e-8,
            denoise_last=False,
        ).x
        np.testing.assert_allclose(
            found / sde.marginal(jnp.asarray(1e-3))[0], problem.y[::73], rtol=1e-6
        )


def test_the_error_is_that_at_the_known_end():
    with jax.enable_x64(True):
        problem = problems("gaussian VP")["gaussian VP"]
        ts = grids.log_snr(problem.sde, 20)
        found = deterministic.error(DPMpp2M(), problem, ts)
        assert 1e-5 < found < 5e-3
        moved = deterministic.error(DPMpp2M(), problem._replace(y=problem.y + 1), ts)
        assert moved == pytest.approx(1, abs=2 * found)
