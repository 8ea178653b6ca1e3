"""Exact posteriors against quadrature, block inverses of joint covariances, and each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sde_lib import VP, Gaussian, GaussianMixture, in_float64

MEAN = np.array([0.7, -0.4, 0.2])
COV = np.array([[0.25, 0.1, -0.06], [0.1, 0.09, 0.02], [-0.06, 0.02, 0.16]])
MATRIX = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.1]])
Y = np.array([1.1, -0.3])
NOISE_COV = np.array([[0.04, 0.015], [0.015, 0.09]])

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[-0.8, 0.1], [0.5, 0.4], [0.3, -0.9]])
COVS = np.array(
    [[[0.04, 0.01], [0.01, 0.02]], [[0.09, -0.05], [-0.05, 0.06]], [[0.01, 0.0], [0.0, 0.16]]]
)
PLANE = GaussianMixture(WEIGHTS, MEANS, COVS)
ROW = np.array([[0.6, -1.2]])


def cov_of(data: Gaussian) -> np.ndarray:
    return data.basis @ np.diag(data.variances) @ data.basis.T


def moments_of(data: GaussianMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the covariance of a mixture in float64."""
    mean = data.weights @ data.means
    covs = np.einsum("kij,kj,klj->kil", data.bases, data.variances, data.bases)
    centred = data.means - mean
    within = np.einsum("k,kij->ij", data.weights, covs)
    return mean, within + np.einsum("k,ki,kj->ij", data.weights, centred, centred)


def grid_of_the_plane(side=401):
    """Return points (n, 2) and the area of their cells: 8 standard deviations around all modes."""
    axis = np.linspace(-4.0, 4.0, side)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return points, (axis[1] - axis[0]) ** 2


def density(points):
    parts = zip(WEIGHTS, MEANS, COVS, strict=True)
    return sum(w * stats.multivariate_normal(m, c).pdf(points) for w, m, c in parts)


def test_a_gaussian_is_conditioned_as_blocks_of_the_joint_precision_say():
    data = Gaussian(MEAN, COV)
    joint = np.block([[COV, COV @ MATRIX.T], [MATRIX @ COV, MATRIX @ COV @ MATRIX.T + NOISE_COV]])
    precision = np.linalg.inv(joint)
    cov = np.linalg.inv(precision[:3, :3])
    mean = MEAN - cov @ precision[:3, 3:] @ (Y - MATRIX @ MEAN)
    got = data.posterior(MATRIX, Y, NOISE_COV)
    assert isinstance(got.data, Gaussian)
    np.testing.assert_allclose(got.data.mean, mean, rtol=1e-11)
    np.testing.assert_allclose(cov_of(got.data), cov, rtol=1e-10, atol=1e-14)
    evidence = stats.multivariate_normal(MATRIX @ MEAN, joint[3:, 3:]).logpdf(Y)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-12)


def test_one_dimension_against_quadrature():
    data = GaussianMixture([0.3, 0.7], [[-0.8], [0.5]], [[[0.15**2]], [[0.25**2]]])
    x = np.linspace(-3, 3, 40_001)
    prior = 0.3 * stats.norm(-0.8, 0.15).pdf(x) + 0.7 * stats.norm(0.5, 0.25).pdf(x)
    joint = prior * stats.norm(2 * x, 0.6).pdf(-0.4) * (x[1] - x[0])
    got = data.posterior([[2.0]], [-0.4], 0.36)
    mean, cov = moments_of(got.data)
    expected = joint @ x / joint.sum()
    np.testing.assert_allclose(got.log_evidence, np.log(joint.sum()), rtol=1e-9)
    np.testing.assert_allclose(mean, [expected], rtol=1e-9)
    np.testing.assert_allclose(cov, [[joint @ (x - expected) ** 2 / joint.sum()]], rtol=1e-9)


def test_two_dimensions_against_quadrature():
    points, cell = grid_of_the_plane()
    joint = density(points) * stats.norm(points @ ROW[0], 0.3).pdf(0.8) * cell
    got = PLANE.posterior(ROW, [0.8], 0.09)
    assert isinstance(got.data, GaussianMixture)
    np.testing.assert_allclose(got.log_evidence, np.log(joint.sum()), rtol=1e-8)
    mean, cov = moments_of(got.data)
    mass = joint / joint.sum()
    np.testing.assert_allclose(mean, mass @ points, rtol=1e-8)
    centred = points - mass @ points
    np.testing.assert_allclose(cov, (mass[:, None] * centred).T @ centred, rtol=1e-7, atol=1e-12)
    # The density, too: three components that are weighted wrongly can share two moments.
    some = points[::5000]
    with jax.enable_x64(True):
        log_prob = got.data.log_prob(VP(), jnp.asarray(some), 0.0)
    log_joint = np.log(density(some)) + stats.norm(some @ ROW[0], 0.3).logpdf(0.8)
    np.testing.assert_allclose(log_prob, log_joint - np.log(joint.sum()), rtol=1e-7)


def test_the_evidence_integrates_to_one():
    # Sums of smooth densities converge like exp(-2 pi^2 (sd / cell)^2).
    axis = np.linspace(-4, 4, 101)
    evidence = [np.exp(PLANE.posterior(ROW, np.array([y]), 0.05).log_evidence) for y in axis]
    np.testing.assert_allclose(np.sum(evidence) * (axis[1] - axis[0]), 1, rtol=1e-7)
    axis = np.linspace(-3.5, 3.5, 25)
    evidence = [
        np.exp(PLANE.posterior([[0.6, -1.2], [1.0, 0.5]], np.array(y), NOISE_COV).log_evidence)
        for y in itertools.product(axis, axis)
    ]
    np.testing.assert_allclose(np.sum(evidence) * (axis[1] - axis[0]) ** 2, 1, rtol=1e-5)


@pytest.mark.parametrize("data", [Gaussian(MEAN, COV), GaussianMixture([1.0], [MEAN], [COV])])
def test_measurements_one_after_the_other_equal_all_at_once(data):
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(5, 3))
    y = matrix @ MEAN + rng.normal(size=5)
    variances = np.array([0.3, 0.01, 0.2, 1.0, 0.05])
    at_once = data.posterior(matrix, y, variances)
    log_evidence = 0.0
    for row, value, variance in zip(matrix, y, variances, strict=True):
        part = data.posterior(row[None], [value], variance)
        data = part.data
        log_evidence += part.log_evidence
    np.testing.assert_allclose(log_evidence, at_once.log_evidence, rtol=1e-11)
    for got, expected in zip(data.data_moments(), at_once.data.data_moments(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_mixtures_measured_twice_are_mixtures_measured_once_more():
    matrix = np.array([[0.6, -1.2], [1.0, 0.5]])
    at_once = PLANE.posterior(matrix, [0.3, 0.4], [0.1, 0.2])
    first = PLANE.posterior(matrix[:1], [0.3], 0.1)
    second = first.data.posterior(matrix[1:], [0.4], 0.2)
    np.testing.assert_allclose(
        first.log_evidence + second.log_evidence, at_once.log_evidence, rtol=1e-11
    )
    np.testing.assert_allclose(second.data.weights, at_once.data.weights, rtol=1e-10)
    np.testing.assert_allclose(second.data.means, at_once.data.means, rtol=1e-10)
    np.testing.assert_allclose(
        moments_of(second.data)[1], moments_of(at_once.data)[1], rtol=1e-9, atol=1e-14
    )


def test_the_denoiser_is_that_of_the_weighted_data(sde):
    # E[x_0 | x_t, y] by weighting clean data on a grid with both likelihoods.
    points, _ = grid_of_the_plane()
    weights = density(points) * stats.norm(points @ ROW[0], 0.3).pdf(0.8)
    denoise = PLANE.posterior(ROW, [0.8], 0.09).data.denoiser(sde)
    t = 0.5
    alpha, sigma = (float(value) for value in in_float64(sde.marginal, t))
    states = alpha * np.array([[0.5, 0.4], [-0.2, -0.7]]) + sigma * np.array([[0.5, -1], [1, 0.3]])
    expected = []
    for x in states:
        log_noised = -0.5 * np.sum((x - alpha * points) ** 2, 1) / sigma**2
        joint = weights * np.exp(log_noised - log_noised.max())
        expected.append(joint @ points / joint.sum())
    with jax.enable_x64(True):
        got = denoise(jnp.asarray(states), t)
        np.testing.assert_allclose(got.x0, expected, rtol=1e-7)


def test_samples_are_those_of_the_posterior():
    # 20 000 draws, two means within 5 standard errors: missed once in 1e6 runs.
    got = PLANE.posterior(ROW, [0.8], 0.09).data
    x = np.asarray(got.sample(jax.random.key(0), 20_000), np.float64)
    mean, cov = moments_of(got)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / 20_000))


def test_the_three_forms_of_the_noise_agree():
    data = Gaussian(MEAN, COV)
    number, vector, matrix = (
        data.posterior(MATRIX, Y, noise) for noise in (0.2, [0.2, 0.2], 0.2 * np.eye(2))
    )
    for other in (vector, matrix):
        np.testing.assert_allclose(other.data.mean, number.data.mean, rtol=1e-13)
        np.testing.assert_allclose(other.log_evidence, number.log_evidence, rtol=1e-13)
        np.testing.assert_allclose(cov_of(other.data), cov_of(number.data), rtol=1e-11, atol=1e-15)


def test_an_exact_observation_holds_exactly():
    got = Gaussian(MEAN, COV).posterior(MATRIX, Y, 0.0)
    np.testing.assert_allclose(MATRIX @ got.data.mean, Y, rtol=1e-13)
    np.testing.assert_allclose(MATRIX @ cov_of(got.data), 0, atol=1e-15)
    nearly = Gaussian(MEAN, COV).posterior(MATRIX, Y, 1e-10)
    np.testing.assert_allclose(nearly.data.mean, got.data.mean, atol=1e-8)
    np.testing.assert_allclose(nearly.log_evidence, got.log_evidence, atol=1e-7)
    everything = Gaussian(MEAN, COV).posterior(np.eye(3), [0.1, 0.2, 0.3], 0.0)
    np.testing.assert_allclose(everything.data.mean, [0.1, 0.2, 0.3], rtol=1e-13)
    np.testing.assert_allclose(everything.data.variances, 0, atol=1e-28)


def test_one_exact_and_one_noisy_measurement():
    # The singular covariance of the noise is the limit of a regular one.
    got = Gaussian(MEAN, COV).posterior(MATRIX, Y, np.diag([0.0, 0.09]))
    nearly = Gaussian(MEAN, COV).posterior(MATRIX, Y, [1e-12, 0.09])
    np.testing.assert_allclose(got.data.mean, nearly.data.mean, rtol=1e-9)
    np.testing.assert_allclose(MATRIX[0] @ cov_of(got.data), 0, atol=1e-15)


def test_a_variance_far_below_that_of_the_data_keeps_its_digits():
    # One coordinate: c s / (c + s); the difference c - c^2 / (c + s) would have 4 digits.
    for noise in (1e-6, 1e-12):
        got = Gaussian([0.3], [[0.7]]).posterior([[1.0]], [0.5], noise)
        np.testing.assert_allclose(got.data.variances, 0.7 * noise / (0.7 + noise), rtol=1e-12)


def test_repeated_measurements_average():
    got = Gaussian(MEAN, COV).posterior(np.repeat(MATRIX[:1], 4, 0), [1.0, 1.2, 0.9, 1.1], 0.2)
    once = Gaussian(MEAN, COV).posterior(MATRIX[:1], [1.05], 0.05)
    np.testing.assert_allclose(got.data.mean, once.data.mean, rtol=1e-12)
    np.testing.assert_allclose(cov_of(got.data), cov_of(once.data), rtol=1e-12)


def test_measurements_in_other_units_are_not_dependent():
    units = np.array([1e9, 1e-9])
    got = Gaussian(MEAN, COV).posterior(MATRIX * units[:, None], Y * units, 0.0)
    once = Gaussian(MEAN, COV).posterior(MATRIX, Y, 0.0)
    np.testing.assert_allclose(got.data.mean, once.data.mean, rtol=1e-12)
    np.testing.assert_allclose(got.log_evidence, once.log_evidence, rtol=1e-9)


def test_components_without_weight_are_dropped():
    data = GaussianMixture([0.5, 0.5], [[-40.0], [1.0]], [[[0.25]], [[0.25]]])
    got = data.posterior([[1.0]], [1.2], 0.04)
    assert got.data.weights.tolist() == [1.0]
    only = Gaussian([1.0], [[0.25]]).posterior([[1.0]], [1.2], 0.04)
    np.testing.assert_allclose(got.log_evidence, only.log_evidence + np.log(0.5), rtol=1e-13)
    np.testing.assert_allclose(got.data.means[0], only.data.mean, rtol=1e-13)


def test_a_measurement_that_nothing_explains_well_still_has_a_posterior():
    got = PLANE.posterior(ROW, [1e4], 1e-4)  # exp(log p(y)) underflows
    assert got.log_evidence < -1e6
    assert np.all(np.isfinite(got.data.means)) and got.data.weights.sum() == pytest.approx(1)


WRONG = {
    "columns": ((np.eye(2), Y, 0.1), r"matrix of shape \(m, 3\).*got \(2, 2\)"),
    "one row as a vector": ((MATRIX[0], Y[:1], 0.1), "matrix.*2 axes"),
    "length of y": ((MATRIX, [1.0, 2.0, 3.0], 0.1), r"y of shape \(2,\).*got \(3,\)"),
    "nan in y": ((MATRIX, [1.0, np.nan], 0.1), "y finite"),
    "negative": ((MATRIX, Y, -0.1), "noise_cov >= 0, got -0.1"),
    "not finite": ((MATRIX, Y, np.inf), "noise_cov finite"),
    "length of the noise": ((MATRIX, Y, [0.1, 0.1, 0.1]), r"noise_cov as a number.*\(3,\)"),
    "size of the noise": ((MATRIX, Y, np.eye(3)), r"symmetric and of shape \(2, 2\)"),
    "asymmetric": ((MATRIX, Y, [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
    "indefinite": ((MATRIX, Y, [[1.0, 2.0], [2.0, 1.0]]), "negative eigenvalues, got -1"),
    "three axes": ((MATRIX, Y, np.ones((1, 2, 2))), "noise_cov.*axes"),
    "dependent": ((MATRIX[[0, 0]], Y, 0.0), "singular.*noise"),
    "nothing measured": ((np.zeros((2, 3)), Y, 0.0), "singular"),
    "out of reach": ((MATRIX, [1e200, 0.0], 0.1), "within reach.*units"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_bad_input_is_refused_with_its_value(name):
    arguments, message = WRONG[name]
    for data in (Gaussian(MEAN, COV), GaussianMixture([1.0], [MEAN], [COV])):
        with pytest.raises(ValueError, match=message):
            data.posterior(*arguments)


def test_a_traced_measurement_is_refused():
    with pytest.raises(ValueError, match="known, not traced"):
        jax.jit(lambda y: Gaussian(MEAN, COV).posterior(MATRIX, y, 0.1).log_evidence)(Y)
