"""The walk with Laplace increments: its denoiser and its Gibbs sampler, against quadrature and
against each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.laplace_gibbs import draw_variances, draw_walks
from experiments.benchmarks.laplace_walk import NARROW, LaplaceWalk
from sde_lib import EDM, VE, VP, Rectified, in_float64

SCALE = 0.25
# Noise-to-signal ratios under EDM's process, where alpha = 1: local nodes below 0.175.
RATIOS = (0.004, 0.03, 0.17, 0.18, 0.4, 1.5, 12.0)


def quadrature(x, ratio):
    """Return log p, E[x_0] and Cov[x_0] of walks of three steps seen at x (3,), with alpha = 1.

    Gauss and Legendre's rule in the increments, between the kinks and around what is seen.
    """
    rules = []
    for seen in np.diff(x, prepend=0):
        low = max(seen - 12 * ratio, -30 * SCALE)
        high = min(seen + 12 * ratio, 30 * SCALE)
        inner = SCALE * np.array([-8, -2, 0, 2, 8])
        breaks = np.unique(
            np.clip([low, seen - 3 * ratio, seen + 3 * ratio, *inner, high], low, high)
        )
        node, weight = np.polynomial.legendre.leggauss(14)
        half = np.diff(breaks) / 2
        middle = (breaks[1:] + breaks[:-1]) / 2
        rules.append(
            ((middle[:, None] + half[:, None] * node).ravel(), (half[:, None] * weight).ravel())
        )
    steps = np.stack(np.meshgrid(*(r[0] for r in rules), indexing="ij"), -1)
    weights = np.einsum("i,j,k->ijk", *(r[1] for r in rules))
    walks = np.cumsum(steps, -1)
    prior = np.exp(-np.sum(np.abs(steps), -1) / SCALE) / (2 * SCALE) ** 3
    noise = (x - walks) / ratio
    likelihood = np.exp(-0.5 * np.sum(noise**2, -1)) / (np.sqrt(2 * np.pi) * ratio) ** 3
    mass = weights * prior * likelihood
    total = mass.sum()
    mean = np.einsum("ijk,ijka->a", mass, walks) / total
    centred = walks - mean
    return np.log(total), mean, np.einsum("ijk,ijka,ijkb->ab", mass, centred, centred) / total


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_denoiser_and_its_jacobian_equal_quadrature(ratio):
    data = LaplaceWalk(SCALE, 3)
    sde = EDM(t_min=0.0)
    t = np.array(ratio / 80)
    x = np.array([0.3, -0.1, 0.05]) + ratio * np.array([0.4, 1.0, -0.8])
    log_prob, mean, cov = quadrature(x, ratio)
    with jax.enable_x64(True):
        denoise = data.denoiser(sde)
        got = denoise(jnp.asarray(x)[None], t)
        jacobian = jax.jacfwd(lambda v: denoise(v[None], t).x0[0])(jnp.asarray(x))
        at = data.marginal(sde, jnp.asarray(x)[None], t)
    spread = np.sqrt(np.trace(cov))
    np.testing.assert_allclose(got.x0[0], mean, atol=3e-4 * spread)
    np.testing.assert_allclose(got.noise[0], (x - mean) / ratio, atol=3e-4 * spread / ratio)
    np.testing.assert_allclose(jacobian, cov / ratio**2, atol=1e-3 * np.trace(cov) / ratio**2)
    np.testing.assert_allclose(at.log_prob[0], log_prob, atol=1e-3)
    divergence = (np.trace(cov) / ratio**2 - 3) / ratio**2
    np.testing.assert_allclose(at.divergence[0], divergence, atol=3e-3 * 3 / ratio**2)


def test_the_score_is_the_slope_of_the_density():
    data = LaplaceWalk(SCALE, 16)
    with jax.enable_x64(True):
        for t in (1e-4, 1e-2, 0.1, 0.9):  # both kinds of nodes
            alpha, sigma = in_float64(VP().marginal, t)
            x = VP().perturb(jax.random.key(0), data.sample(jax.random.key(1), 3), t)[0]
            slope = jax.vmap(jax.grad(lambda v, t=t: data.log_prob(VP(), v[None], t)[0]))(x)
            np.testing.assert_allclose(data.score(VP(), x, t), slope, atol=1e-9 / float(sigma))
            # The density of x and that of x / alpha differ by d log alpha.
            seen = data.log_prob(EDM(t_min=0.0), x / alpha, sigma / alpha / 80)
            np.testing.assert_allclose(
                data.log_prob(VP(), x, t), seen - 16 * np.log(alpha), atol=1e-7
            )


def test_both_kinds_of_nodes_agree_where_they_meet():
    data = LaplaceWalk(SCALE, 16)
    x = np.asarray(data.sample(jax.random.key(0), 50), np.float64)
    x = x + NARROW * SCALE * np.random.default_rng(0).standard_normal(x.shape)
    with jax.enable_x64(True):
        below, above = (
            data.marginal(EDM(t_min=0.0), jnp.asarray(x), NARROW * SCALE / 80 * factor)
            for factor in (1 - 1e-9, 1 + 1e-9)
        )
    np.testing.assert_allclose(below.x0, above.x0, atol=5e-4 * SCALE)
    np.testing.assert_allclose(below.log_prob, above.log_prob, atol=2e-3)


def test_without_noise_it_is_the_density_of_the_data():
    data = LaplaceWalk(SCALE, 4)
    x = np.array([[0.3, 0.1, 0.2, -0.5]])
    steps = np.array([0.3, -0.2, 0.1, -0.7])
    at = data.marginal(VP(), jnp.asarray(x, jnp.float32), 0.0)
    expected = -np.sum(np.abs(steps)) / SCALE - 4 * np.log(2 * SCALE)
    np.testing.assert_allclose(at.log_prob, [expected], rtol=1e-5)
    np.testing.assert_allclose(at.score, [[-2 / SCALE, 2 / SCALE, -2 / SCALE, 1 / SCALE]])
    np.testing.assert_allclose(data.denoiser(VP())(jnp.asarray(x, jnp.float32), 0.0).x0, x)


@pytest.mark.parametrize("process", [VP, EDM, Rectified], ids=lambda c: c.__name__)
def test_it_is_finite_in_float32_wherever_a_walk_may_come(process):
    sde = process()
    data = LaplaceWalk(SCALE, 16)
    denoise = data.denoiser(sde)
    t = jnp.array([0.0, 1e-5, 1e-3, 0.02, 0.1, 0.5, 1.0])
    clean = data.sample(jax.random.key(0), 7)
    noised = sde.perturb(jax.random.key(1), clean, t)[0]
    with jax.enable_x64(True):
        exact = denoise(noised.astype(jnp.float64), t.astype(jnp.float64))
    far = jnp.full((7, 16), 5.0).at[:, ::2].set(-5.0)  # every step is one of 40 b
    assert np.all(np.isfinite(denoise(10 * far, t)))
    for x in (noised, far):
        estimate, pulled = jax.vjp(lambda x: denoise(x, t), x)
        assert np.all(np.isfinite(estimate)) and np.all(np.isfinite(pulled(estimate)[0]))
        assert estimate.x0.dtype == np.float32
    got = denoise(noised, t)
    np.testing.assert_allclose(got.x0, exact.x0, atol=1e-4)
    np.testing.assert_allclose(got.noise[1:], exact.noise[1:], atol=2e-3)


def test_samples_have_the_moments_of_the_data():
    # 20 000 draws: 16 means and 16 variances within 5 standard errors, missed once in 5e4 runs.
    data = LaplaceWalk(SCALE, 16)
    x = np.asarray(data.sample(jax.random.key(0), 20_000), np.float64)
    mean, cov = (np.asarray(moment, np.float64) for moment in data.data_moments())
    assert np.all(np.abs(x.mean(0) - mean) < 5 * x.std(0) / np.sqrt(len(x)))
    products = x[:, :, None] * x[:, None]
    gap = np.abs(products.mean(0) - cov)
    assert np.all(gap < 5 * products.std(0) / np.sqrt(len(x)))
    steps = np.diff(x, axis=1)
    assert abs(np.mean(np.abs(steps)) - SCALE) < 5 * SCALE / np.sqrt(steps.size)


def test_gibbs_draws_have_the_moments_of_quadrature():
    # Masked in the middle; 12 numbers from 10 000 draws within 5 standard errors: once in 1e5 runs.
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    y = np.array([0.4, -0.1])
    noise_std = 0.15
    x = draw_walks(np.random.default_rng(0), SCALE, matrix, y, noise_std, 10_000, sweeps=30)
    node, weight = np.polynomial.legendre.leggauss(12)
    edges = SCALE * np.array([-14, -4, -1, -0.1, 0, 0.1, 1, 4, 14])
    half = np.diff(edges) / 2
    step = ((edges[1:] + edges[:-1])[:, None] / 2 + half[:, None] * node).ravel()
    mass = (half[:, None] * weight).ravel() * np.exp(-np.abs(step) / SCALE)
    steps = np.stack(np.meshgrid(step, step, step, indexing="ij"), -1).reshape(-1, 3)
    walks = np.cumsum(steps, 1)
    joint = np.einsum("i,j,k->ijk", mass, mass, mass).ravel()
    joint = joint * np.exp(-0.5 * np.sum((y - walks @ matrix.T) ** 2, 1) / noise_std**2)
    joint = joint / joint.sum()

    def features(walks):
        sizes = np.abs(np.diff(walks, axis=1, prepend=0))
        return np.concatenate([walks, walks**2, sizes, sizes < 0.1 * SCALE], 1)

    got = features(x)
    expected = joint @ features(walks)
    gap = np.abs(got.mean(0) - expected)
    assert np.all(gap < 5 * got.std(0) / np.sqrt(len(got)))


def test_gibbs_and_the_denoiser_agree_on_sixteen_steps():
    # The noised walk is itself a measurement. 3 x 16 means of 4000 draws within 5 standard errors,
    # missed once in 3e4 runs.
    data = LaplaceWalk(SCALE, 16)
    clean = np.asarray(data.sample(jax.random.key(3), 1), np.float64)
    rng = np.random.default_rng(2)
    for t in (0.02, 0.1, 0.3):
        alpha, sigma = (float(value) for value in in_float64(VP().marginal, t))
        seen = alpha * clean + sigma * rng.standard_normal(clean.shape)
        got = data.denoiser(VP())(jnp.asarray(seen, jnp.float32), t).x0[0]
        walks = draw_walks(rng, SCALE, alpha * np.eye(16), seen[0], sigma, 4000, sweeps=60)
        error = walks.std(0) / np.sqrt(len(walks))
        assert np.all(np.abs(got - walks.mean(0)) < 5 * error)


def test_variances_follow_the_scale_mixture():
    # Given |w| the density of the variance is tau^-1/2 exp(-w^2 / 2 tau - tau / 2 b^2); its mean is
    # b |w| + b^2. 5 standard errors: missed once in 1e6 runs. Nothing happens at w = 0.
    rng = np.random.default_rng(0)
    for size, scale in itertools.product((0.0, 1e-12, 0.1, 3.0), (0.25, 2.0)):
        variances = draw_variances(rng, np.full(40_000, size), scale)
        assert np.all(np.isfinite(variances)) and np.all(variances >= 0)
        expected = scale * size + scale**2
        assert abs(variances.mean() - expected) < 5 * variances.std() / np.sqrt(40_000)


@pytest.mark.parametrize("arguments", [(0.0, 4), (-1.0, 4), (1.0, 0), (np.nan, 4)])
def test_senseless_walks_are_refused(arguments):
    with pytest.raises(ValueError, match="need scale > 0 and size >= 1, got"):
        LaplaceWalk(*arguments)


def test_a_single_step_is_a_walk():
    data = LaplaceWalk(SCALE, 1)
    for t in (1e-4, 0.5):
        assert np.all(np.isfinite(data.denoiser(VE())(jnp.ones((2, 1)), t).x0))
