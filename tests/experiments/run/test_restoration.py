"""The function for notebooks, on a prior whose posterior is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from experiments.run.build import DataFacts, build
from experiments.run.loading import Loaded
from experiments.run.restoration_methods import METHODS
from sde_lib import ExactDenoiser, Gaussian
from sde_lib.inverse import Blur, Mask, Pool, Projection

COV = np.array([[1.0, 0.6], [0.6, 0.5]])
MEAN = np.array([0.3, -0.2])
MATRIX = np.array([[1.0, 0.5]])
STD = 0.3
Y = np.array([[0.9], [-1.1]])
PROJECTION = Projection(jnp.asarray(MATRIX, jnp.float32))


@pytest.fixture(scope="module", autouse=True)
def programs_that_compile_fast():
    """Everything here runs once, on two numbers."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def gaussian(tiny_config):
    """A run whose denoiser is that of a Gaussian."""
    run = build(tiny_config(), DataFacts((2,), None, 0, 0.8), abstract=True)
    denoiser = ExactDenoiser(Gaussian(MEAN, COV), run.sde)
    return Loaded(run.sde, denoiser, run.config, run, 0)


def test_mmps_draws_the_exact_posterior(gaussian):
    """4000 samples: a mean is off by 4.5 standard errors once in 150,000, a deviation by 5 %, which
    is 4.5 of its standard errors, as often; 2 % of the deviation are left to the grid.
    """
    restored = experiments.restore(
        gaussian, Y, PROJECTION, STD, "mmps", samples=4000, batch_size=8000, seed=1
    )
    assert restored.x.shape == (2, 4000, 2) and restored.nfe == 31 * 9
    for number, y in enumerate(Y):
        gain = COV @ MATRIX.T / (MATRIX @ COV @ MATRIX.T + STD**2)
        mean = MEAN + gain @ (y - MATRIX @ MEAN)
        sd = np.sqrt(np.diag(COV - gain @ MATRIX @ COV))
        error = (restored.mean[number] - mean) / (sd / np.sqrt(4000))
        assert np.abs(error).max() < 4.5 + 1.5
        np.testing.assert_allclose(restored.std[number], sd, rtol=0.07)
        np.testing.assert_array_equal(restored.mean[number], restored.x[number].mean(0, np.float64))


def test_chi_square_is_1_on_average_for_measurements_of_the_prior(gaussian):
    """Of 400 measurements with 20 samples: the standard error of the mean is about 0.05; 5 of them
    are exceeded once in two million. Noise taken for half or twice of what it is gives 2 or 0.5.
    """
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(MEAN, COV, 400)
    y = x @ MATRIX.T + STD * rng.normal(size=(400, 1))
    chi = experiments.restore(
        gaussian, y, PROJECTION, STD, "mmps", samples=20, batch_size=8000
    ).chi_square
    assert chi.shape == (400,) and abs(chi.mean() - 1) < 0.25


def test_samples_do_not_depend_on_the_batch_and_belong_to_their_observation(gaussian):
    few = {"method": "diffpir", "samples": 5, "steps": 2}
    together = experiments.restore(gaussian, Y, PROJECTION, STD, batch_size=64, **few)
    apart = experiments.restore(gaussian, Y, PROJECTION, STD, batch_size=4, **few)
    np.testing.assert_allclose(apart.x, together.x, atol=1e-5)
    first = experiments.restore(gaussian, Y[0], PROJECTION, STD, batch_size=4, **few)
    np.testing.assert_allclose(first.x, together.x[:1], atol=1e-5)
    other = experiments.restore(gaussian, Y, PROJECTION, STD, seed=1, **few)
    assert (other.x != together.x).all()


def curved(x):
    return x[:1] ** 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_and_those_that_need_a_linear_operator_say_so(method, gaussian):
    few = {"method": method, "samples": 2, "steps": 2}
    if method in ("daps", "split_gibbs", "replacement", "repaint", "tds"):
        with pytest.raises(ValueError, match="linear operator.*differs from its tangent"):
            experiments.restore(gaussian, Y, curved, STD, **few)
        assert np.isfinite(experiments.restore(gaussian, Y, PROJECTION, STD, **few).x).all()
    else:
        assert np.isfinite(experiments.restore(gaussian, Y, curved, STD, **few).x).all()


def test_daps_takes_an_operator_that_is_not_linear_with_langevin_steps(gaussian):
    restored = experiments.restore(
        gaussian, Y, curved, STD, "daps", samples=2, steps=2, langevin_steps=3
    )
    assert np.isfinite(restored.x).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"y": np.zeros((2, 3))}, r"y has shape \(2, 3\), but this operator measures \(1,\)"),
        ({"y": [[np.nan]]}, "y holds numbers that are not finite"),
        ({"std": 0.0}, "need std > 0"),
        ({"std": -1.0}, "need std > 0"),
        ({"method": "mmp"}, "unknown method 'mmp'.*did you mean 'mmps'"),
        ({"samples": 0}, "samples to be a whole number of at least 1, got 0"),
        ({"label": 3}, "the label is 3, expected -1, as the run is not conditional"),
        ({"iterationz": 3}, "JFPS has no setting iterationz; it takes cov, iterations, tolerance"),
        ({"method": "dps", "step_size": -1.0}, "step_size >= 0"),
        ({"operator": Pool(2)}, "takes one image"),
        ({"operator": lambda x: x.nothing}, "cannot measure one example of shape"),
        ({"operator": lambda x: (x, x)}, "to one float32 array"),
    ],
)
def test_what_does_not_fit_is_said(arguments, message, gaussian):
    given = {"y": Y, "operator": PROJECTION, "std": STD, "steps": 2} | arguments
    with pytest.raises(ValueError, match=message):
        experiments.restore(gaussian, **given)


def test_grey_levels_in_place_of_model_values_are_refused(image_prior):
    run = image_prior(levels=256)
    levels = np.full((2, 2, 1), 130.0)
    with pytest.raises(ValueError, match="y reaches 130.*codec.expected"):
        experiments.restore(run, levels, Pool(2), 0.1, steps=2)
    y = run.run.facts.codec.expected(levels)
    assert experiments.restore(run, y, Pool(2), 0.1, "diffpir", steps=2).x.shape == (1, 8, 4, 4, 1)
    for operator in (Mask(np.eye(4)[..., None]), Blur.gaussian(0.5)):
        with pytest.raises(ValueError, match="reaches 130"):
            shape = (4,) if isinstance(operator, Mask) else (4, 4, 1)
            experiments.restore(run, np.full(shape, 130.0), operator, 0.1)


CORRELATED = np.array([[0.3, 0.25], [0.25, 0.4]])
BOTH = Projection(jnp.eye(2))


@pytest.mark.parametrize("noise", [np.array([0.2, 0.9]), CORRELATED], ids=["sizes", "correlated"])
def test_noise_may_have_several_sizes_or_a_covariance(gaussian, noise):
    """As `test_mmps_draws_the_exact_posterior`, with noise that differs."""
    y = np.array([[0.9, -1.0]])
    restored = experiments.restore(gaussian, y, BOTH, noise, "mmps", samples=4000, batch_size=4000)
    cov = np.diag(noise**2) if noise.ndim == 1 else noise
    gain = COV @ np.linalg.inv(COV + cov)
    sd = np.sqrt(np.diag(COV - gain @ COV))
    error = (restored.mean[0] - MEAN - gain @ (y[0] - MEAN)) / (sd / np.sqrt(4000))
    assert np.abs(error).max() < 4.5 + 1.5
    np.testing.assert_allclose(restored.std[0], sd, rtol=0.07)
    misfit = y[0] - restored.x[0].astype(np.float64)
    expected = np.einsum("ni,ij,nj->n", misfit, np.linalg.inv(cov), misfit).mean() / 2
    np.testing.assert_allclose(restored.chi_square, expected, rtol=1e-4)
