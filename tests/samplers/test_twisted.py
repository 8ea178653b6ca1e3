"""Twisted sequential Monte Carlo: its twist and moves against closed forms, its samples and evidence against exact posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from samplers import grids
from samplers.inverse import twisted
from samplers.inverse.twist import make_twist
from sde_lib import VE, VP, Gaussian, GaussianMixture
from sde_lib.inverse import Projection
from tests.samplers.walks import each

KEY = jax.random.key(0)
MATRIX = np.array([[1.0, -0.5, 0.2], [0.0, 0.7, 0.4]])
OPERATOR = Projection(jnp.asarray(MATRIX, jnp.float32))
STD = 0.3
Y = np.array([0.9, -0.4])
ROOT = np.array([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.4, 0.6]])
COV = ROOT @ ROOT.T
MEAN = np.array([0.4, -0.6, 1.0])
DATA = Gaussian(MEAN, COV)
# As a mixture of two that are alike it has the program of other mixtures.
TWICE = GaussianMixture([0.3, 0.7], np.array([MEAN, MEAN]), np.array([COV, COV]))
MIXTURE = GaussianMixture(
    [0.3, 0.7], np.array([[1.0, 0.5, -0.4], [-0.8, -0.3, 0.6]]), np.array([0.15 * COV, 0.3 * COV])
)
LEVEL, SCALE = 0.6, 0.4
NUMBER = 20_000  # a mean is known to 0.0071 sd, a covariance to 0.01: 5 of these are passed by chance with 6e-7


@pytest.fixture(scope="module", autouse=True)
def programs_that_compile_fast():
    """Every program here runs once or twice, on next to nothing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def twist():
    return make_twist(OPERATOR, jnp.asarray(Y, jnp.float32), STD, (3,), COV)


def given_state(level):
    return np.linalg.inv(np.linalg.inv(COV) + np.eye(3) / level**2)


def assert_law(x, mean, cov):
    x = np.asarray(x, np.float64)
    sd = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((x.mean(0) - mean) / sd, 0, atol=5 * 0.0071)
    np.testing.assert_allclose((np.cov(x.T) - cov) / np.outer(sd, sd), 0, atol=5 * 0.01)


def test_the_twist_is_the_density_of_the_measurement():
    x0 = np.array([[0.2, 0.1, -0.3], [1.0, -1.0, 0.5]])
    got = twist().conditional(jnp.asarray(LEVEL)).log_density(jnp.asarray(x0, jnp.float32))
    cov = STD**2 * np.eye(2) + MATRIX @ given_state(LEVEL) @ MATRIX.T
    want = [stats.multivariate_normal(MATRIX @ x, cov).logpdf(Y) for x in x0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_last_move_draws_clean_data_given_the_measurement():
    x0 = np.array([0.2, 0.1, -0.3])
    keys = jax.random.split(KEY, NUMBER)
    many = jnp.broadcast_to(jnp.asarray(x0, jnp.float32), (NUMBER, 3))
    got = twist().conditional(jnp.asarray(LEVEL)).draw(keys, many)
    exact = Gaussian(x0, given_state(LEVEL)).posterior(MATRIX, Y, STD**2).data
    moments = exact.data_moments()
    assert_law(got, np.asarray(moments.mean), np.asarray(moments.cov))


def test_the_noise_of_a_move_is_conditioned_on_the_measurement_and_its_ratio_is_right():
    x0 = np.array([0.2, 0.1, -0.3])
    keys = jax.random.split(KEY, NUMBER)
    many = jnp.broadcast_to(jnp.asarray(x0, jnp.float32), (NUMBER, 3))
    z, log_ratio = twist().conditional(jnp.asarray(LEVEL)).move(jnp.asarray(SCALE)).draw(keys, many)
    gain = COV @ np.linalg.inv(COV + LEVEL**2 * np.eye(3))
    sensitivity = SCALE * MATRIX @ gain
    cov = STD**2 * np.eye(2) + MATRIX @ given_state(LEVEL) @ MATRIX.T
    exact = Gaussian(np.zeros(3), np.eye(3)).posterior(sensitivity, Y - MATRIX @ x0, cov).data
    moments = exact.data_moments()
    mean, cov = np.asarray(moments.mean, np.float64), np.asarray(moments.cov, np.float64)
    assert_law(z, mean, cov)
    points = np.asarray(z[:100], np.float64)
    of_prior = stats.multivariate_normal(np.zeros(3), np.eye(3)).logpdf(points)
    want = of_prior - stats.multivariate_normal(mean, cov).logpdf(points)
    np.testing.assert_allclose(log_ratio[:100], want, atol=2e-4)


VARIANCE_PRESERVING, VARIANCE_EXPLODING = each([VP(), VE()])


@pytest.mark.parametrize(
    ("sde", "data"),
    [(VARIANCE_PRESERVING, TWICE), (VARIANCE_PRESERVING, MIXTURE), (VARIANCE_EXPLODING, TWICE)],
)
def test_samples_and_evidence_are_those_of_the_posterior(sde, data):
    exact = data.posterior(MATRIX, Y, STD**2)
    got = twisted(
        KEY,
        data.denoiser(sde),
        sde,
        grids.log_snr(sde, 100),
        OPERATOR,
        jnp.asarray(Y, jnp.float32),
        STD,
        (3,),
        particles=500,
        islands=16,
        cov=np.asarray(data.data_moments().cov),
    )
    assert got.nfe == 101
    assert got.x.shape == (8000, 3)
    # 5 standard errors of 16 islands: 1.6e-4 by Student's distribution; and 0.01 for the chain's steps
    assert 0 < got.log_evidence_error < 0.05
    error = abs(float(got.log_evidence) - exact.log_evidence)
    assert error < 5 * float(got.log_evidence_error) + 0.01
    moments = exact.data.data_moments()
    sd = np.sqrt(np.diag(moments.cov))
    x = np.asarray(got.x, np.float64)
    # As if a tenth of the samples were independent: 5 standard errors of 800, and 0.02 for the steps.
    np.testing.assert_allclose((x.mean(0) - moments.mean) / sd, 0, atol=5 / np.sqrt(800) + 0.02)
    np.testing.assert_allclose(x.std(0) / sd, 1, atol=5 / np.sqrt(1600) + 0.02)


def test_a_short_walk_does_not_degenerate_at_its_end_and_states_its_error():
    """With the last weight of an almost deterministic move, ten steps end in a single point.

    The spread of the evidence over 30 runs is known to 13 %, five of which are passed once in a
    million runs.
    """
    data = Gaussian(np.zeros(1), np.ones((1, 1)))
    identity = Projection(jnp.ones((1, 1)))
    ts = grids.log_snr(VP(), 10)
    runs = [
        twisted(
            jax.random.key(seed), data.denoiser(VP()), VP(), ts, identity, jnp.asarray([1.5]), 0.3, (1,),
            particles=500, islands=8, cov=np.array([4.0]),
        )
        for seed in range(30)
    ]  # fmt: skip
    exact = data.posterior([[1.0]], [1.5], 0.09).data.data_moments()
    got = runs[0]
    assert abs(float(jnp.std(got.x)) / float(exact.cov[0, 0]) ** 0.5 - 1) < 0.1
    assert abs(float(jnp.mean(got.x) - exact.mean[0])) < 0.1
    assert float(jnp.mean(got.ess[-1])) > 0.3
    spread = np.std([run.log_evidence for run in runs])
    error = np.mean([run.log_evidence_error for run in runs])
    np.testing.assert_allclose(error, spread, rtol=0.65)


def test_a_constant_of_the_operator_and_conditions_reach_their_places():
    seen = []

    def denoise(x, t, cond):
        seen.append(jax.tree.map(jnp.shape, cond))
        return DATA.denoiser(VP())(x, t)

    def run(operator, y):
        return twisted(
            KEY, denoise, VP(), grids.log_snr(VP(), 10), operator, jnp.asarray(y, jnp.float32), STD, (3,),
            particles=16, islands=2, cov=COV, cond=jnp.asarray([1.0, 2.0]),
        )  # fmt: skip

    plain = run(OPERATOR, Y)
    moved = run(lambda x: OPERATOR(x) + 2.0, Y + 2.0)
    np.testing.assert_allclose(plain.x, moved.x, atol=1e-3)
    assert set(seen) == {(32, 2)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operator": lambda x: x[:2] ** 2}, "linear operators"),
        ({"y": jnp.zeros(3)}, "gives measurements of shape"),
        ({"std": 0.0}, "std > 0"),
        ({"islands": 1}, "islands"),
        ({"particles": 0}, "particles"),
        ({"threshold": 1.5}, "threshold"),
        ({"cov": np.ones(4)}, "4 variances"),
        ({"ts": np.array([0.1, 0.5])}, "decreasing"),
        ({"ts": np.array([0.5, 0.1])}, "start at t = 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    arguments = {
        "ts": grids.log_snr(VP(), 4), "operator": OPERATOR, "y": jnp.zeros(2), "std": STD, "shape": (3,),
        "particles": 8, "islands": 2,
    } | settings  # fmt: skip
    with pytest.raises(ValueError, match=message):
        twisted(KEY, DATA.denoiser(VP()), VP(), **arguments)
