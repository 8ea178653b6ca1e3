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
from tests.samplers.walks import each

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


@pytest.fixture(scope="module", autouse=True)
def programs_that_compile_fast():
    """Everything here runs a few times, on a few walks."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def at_ratios():
    """Return walks of three steps seen at each ratio, with what is known of them by one program."""
    data = LaplaceWalk(SCALE, 3)
    sde = EDM(t_min=0.0)
    denoise = data.denoiser(sde)
    x = np.array([0.3, -0.1, 0.05]) + np.outer(RATIOS, [0.4, 1.0, -0.8])

    @jax.jit
    def look(x, t):
        def column(e):
            along = jnp.broadcast_to(e, x.shape)
            return jax.jvp(lambda x: denoise(x, t).x0, (x,), (along,))[1]

        jacobian = jax.vmap(column, out_axes=-1)(jnp.eye(3))
        return denoise(x, t), jacobian, data.marginal(sde, x, t)

    with jax.enable_x64(True):
        return x, *look(x, np.array(RATIOS) / 80)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_denoiser_and_its_jacobian_equal_quadrature(ratio, at_ratios):
    x, got, jacobian, at = jax.tree.map(lambda a: np.asarray(a)[RATIOS.index(ratio)], at_ratios)
    log_prob, mean, cov = quadrature(x, ratio)
    spread = np.sqrt(np.trace(cov))
    np.testing.assert_allclose(got.x0, mean, atol=3e-4 * spread)
    np.testing.assert_allclose(got.noise, (x - mean) / ratio, atol=3e-4 * spread / ratio)
    np.testing.assert_allclose(jacobian, cov / ratio**2, atol=1e-3 * np.trace(cov) / ratio**2)
    np.testing.assert_allclose(at.log_prob, log_prob, atol=1e-3)
    divergence = (np.trace(cov) / ratio**2 - 3) / ratio**2
    np.testing.assert_allclose(at.divergence, divergence, atol=3e-3 * 3 / ratio**2)


def test_the_score_is_the_slope_of_the_density():
    data = LaplaceWalk(SCALE, 16)

    @jax.jit
    def look(x, t):
        alpha, sigma = VP().marginal(t)
        log_prob, pull = jax.vjp(lambda x: data.log_prob(VP(), x, t), x)
        # The density of x and that of x / alpha differ by d log alpha.
        seen = data.log_prob(EDM(t_min=0.0), x / alpha, sigma / alpha / 80) - 16 * jnp.log(alpha)
        return data.score(VP(), x, t), pull(jnp.ones_like(log_prob))[0], log_prob, seen

    with jax.enable_x64(True):
        for t in (1e-4, 1e-2, 0.1, 0.9):  # both kinds of nodes
            sigma = float(in_float64(VP().marginal, t)[1])
            x = VP().perturb(jax.random.key(0), data.sample(jax.random.key(1), 3), t)[0]
            score, slope, log_prob, seen = look(jnp.asarray(x, float), t)
            np.testing.assert_allclose(score, slope, atol=1e-9 / sigma)
            np.testing.assert_allclose(log_prob, seen, atol=1e-7)


def test_both_kinds_of_nodes_agree_where_they_meet():
    data = LaplaceWalk(SCALE, 16)
    x = np.asarray(data.sample(jax.random.key(0), 50), np.float64)
    x = x + NARROW * SCALE * np.random.default_rng(0).standard_normal(x.shape)
    ratios = NARROW * SCALE * np.repeat([1 - 1e-9, 1 + 1e-9], 50)

    @jax.jit
    def look(x, t):
        at = data.marginal(EDM(t_min=0.0), x, t)
        return at.x0, at.log_prob

    with jax.enable_x64(True):
        x0, log_prob = (np.split(a, 2) for a in look(np.concatenate([x, x]), ratios / 80))
    np.testing.assert_allclose(*x0, atol=5e-4 * SCALE)
    np.testing.assert_allclose(*log_prob, atol=2e-3)
    assert np.all(x0[0] != x0[1])  # they are not of one kind


def test_without_noise_it_is_the_density_of_the_data():
    data = LaplaceWalk(SCALE, 4)
    x = np.array([[0.3, 0.1, 0.2, -0.5]])
    steps = np.array([0.3, -0.2, 0.1, -0.7])

    @jax.jit
    def look(x):
        return data.marginal(VP(), x, 0.0), data.denoiser(VP())(x, 0.0).x0

    at, x0 = look(jnp.asarray(x, jnp.float32))
    expected = -np.sum(np.abs(steps)) / SCALE - 4 * np.log(2 * SCALE)
    np.testing.assert_allclose(at.log_prob, [expected], rtol=1e-5)
    np.testing.assert_allclose(at.score, [[-2 / SCALE, 2 / SCALE, -2 / SCALE, 1 / SCALE]])
    np.testing.assert_allclose(x0, x)


@pytest.mark.parametrize(
    "process", each([VP(), EDM(), Rectified()]), ids=["VP", "EDM", "Rectified"]
)
def test_it_is_finite_in_float32_wherever_a_walk_may_come(process):
    data = LaplaceWalk(SCALE, 16)
    denoise = data.denoiser(process)
    t = jnp.array([0.0, 1e-5, 1e-3, 0.02, 0.1, 0.5, 1.0])
    clean = data.sample(jax.random.key(0), 7)
    noised = process.perturb(jax.random.key(1), clean, t)[0]
    far = jnp.full((7, 16), 5.0).at[:, ::2].set(-5.0)  # every step is one of 40 b
    got = None
    for x, has_gradient in ((10 * far, False), (far, True), (noised, True)):
        got, pulled = jax.vjp(lambda x: denoise(x, t), x)
        assert np.all(np.isfinite(got)) and got.x0.dtype == np.float32
        assert not has_gradient or np.all(np.isfinite(pulled(got)[0]))
    with jax.enable_x64(True):
        exact = denoise(noised.astype(jnp.float64), t.astype(jnp.float64))
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
        walks = draw_walks(rng, SCALE, alpha * np.eye(16), seen[0], sigma, 4000, sweeps=30)
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
