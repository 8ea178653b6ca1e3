"""The loss against its known minimum and the errors that its weightings stand for; the times against their distributions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_lib
from sde_lib import (
    PREDICTIONS,
    VP,
    WEIGHTINGS,
    Denoiser,
    Gaussian,
    LogNormal,
    LogUniform,
    TimeDistribution,
    Uniform,
    denoising_loss,
    draw_times,
    expand,
    in_float64,
)

CLASSES = [c for _, c in inspect.getmembers(sde_lib, inspect.isclass) if issubclass(c, TimeDistribution)]
COV = np.array([[0.25, 0.06], [0.06, 0.04]])
DATA = Gaussian([0.0, 0.0], COV)


@pytest.fixture(params=[c for c in CLASSES if not inspect.isabstract(c)], ids=lambda c: c.__name__)
def distribution(request, sde):
    if request.param is LogUniform and not np.isfinite(in_float64(sde.log_snr, 1.0)):
        with pytest.raises(ValueError, match="to -inf at 1, where nothing is uniform; .* set log_snr_min"):
            LogUniform().quantile(sde, jnp.ones(1))
        return LogUniform(log_snr_min=-10.0)
    return request.param()


def level(sde, t):
    return -0.5 * in_float64(sde.log_snr, t)


def cdf(distribution, sde, t):
    """Return the distribution function that the docstring of each class states, in float64; a new class is checked without it."""
    t = np.asarray(t, np.float64)
    low, high = level(sde, sde.t_min), level(sde, 1.0)
    match distribution:
        case Uniform():
            return (t - sde.t_min) / (1 - sde.t_min)
        case LogUniform(least):
            return (level(sde, t) - low) / (min(high, -0.5 * least) - low)
        case LogNormal(mean, std):
            normal = stats.norm(mean, std).cdf
            return (normal(level(sde, t)) - normal(low)) / (normal(high) - normal(low))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_weighting_is_the_error_that_it_stands_for(sde, prediction):
    key, t = jax.random.key(4), np.linspace(0.02, 0.98, 7)
    with jax.enable_x64(True):
        x0, value = jax.random.normal(jax.random.key(1), (7, 2, 3)), jax.random.normal(jax.random.key(2), (7, 2, 3))
        x, noise = sde.perturb(key, x0, t)
        denoiser = Denoiser(lambda x, signal, cond: value, sde, prediction, "time")
        (_, sigma), (a, b), g = sde.marginal(expand(t, x)), denoiser.combination(expand(t, x)), sde.coefficients(expand(t, x))[1]
        got = denoiser(x, t)
        errors = {
            "prediction": value - a * x0 - b * noise,
            "noise": got.noise - noise,
            "x0": got.x0 - x0,
            "likelihood": g * (-got.noise / sigma + noise / sigma),  # of the score, under g^2
        }
        assert set(errors) <= set(WEIGHTINGS)
        for weighting, error in errors.items():
            loss = denoising_loss(key, denoiser, x0, jnp.asarray(t), weighting=weighting)
            assert loss.shape == (7,)
            np.testing.assert_allclose(loss, jnp.mean(error**2, (1, 2)), rtol=1e-8)


def network(sde, prediction, shift=0.0, slope=0.0):
    """Return what predicts perfectly for `DATA`, plus a deviation; it is told 999 t."""

    def net(x, signal, cond):
        t = signal / 999
        a, b = PREDICTIONS[prediction](sde, expand(t, x), 0.5)
        exact = DATA.estimate(sde, x, t)
        return a * exact.x0 + b * exact.noise + shift + slope * x

    return net


@pytest.mark.parametrize("prediction", ["edm", "noise", "x0"])
def test_the_perfect_network_has_the_smallest_loss_and_no_gradient(sde, prediction):
    # The loss left is the posterior variance: of the noise alpha^2 c / h^2 along each eigenvector of the data, c its variance and
    # h^2 = alpha^2 c + sigma^2. 4096 samples a time; means within 5 standard errors: a right code fails once in 1e5 runs.
    t = jnp.repeat(jnp.array([0.05, 0.3, 0.8]), 4096)
    x0 = DATA.sample(jax.random.key(0), len(t))

    @jax.jit
    def losses(shift, slope):
        denoiser = Denoiser(network(sde, prediction, shift, slope), sde, prediction, "time")
        return denoising_loss(jax.random.key(1), denoiser, x0, t, weighting="noise").reshape(3, -1)

    c = np.linalg.eigvalsh(COV)
    alpha, sigma = (v[:, None] for v in in_float64(sde.marginal, np.array([0.05, 0.3, 0.8], np.float32)))
    expected = np.mean(alpha**2 * c / (alpha**2 * c + sigma**2), 1)
    loss = np.asarray(losses(0.0, 0.0), np.float64)
    assert np.all(np.abs(loss.mean(1) - expected) < 5 * loss.std(1) / 64)
    for direction in ((1.0, 0.0), (0.0, 1.0)):
        slopes = np.asarray(jax.jvp(losses, (0.0, 0.0), direction)[1], np.float64)
        assert np.all(np.abs(slopes.mean(1)) < 5 * slopes.std(1) / 64)
        assert np.all(np.asarray(losses(*(0.3 * d for d in direction))).mean(1) > loss.mean(1))


def test_the_loss_passes_the_condition_and_takes_any_shape():
    seen = []
    denoiser = Denoiser(lambda x, signal, cond: seen.append(cond) or x, VP())
    assert denoising_loss(jax.random.key(0), denoiser, jnp.ones((3, 4, 4, 2)), jnp.full(3, 0.5), cond="label").shape == (3,)
    assert seen == ["label"]


def test_the_loss_refuses_unknown_weightings_and_other_times():
    denoiser = Denoiser(lambda x, signal, cond: x, VP())
    with pytest.raises(ValueError, match="unknown weighting 'uniform'; choose one of likelihood, noise, prediction, x0"):
        denoising_loss(jax.random.key(0), denoiser, jnp.ones((3, 2)), jnp.full(3, 0.5), weighting="uniform")
    with pytest.raises(Exception, match=r"\(4,\)|batch"):
        denoising_loss(jax.random.key(0), denoiser, jnp.ones((3, 2)), jnp.full(4, 0.5))


def test_quantiles_rise_from_t_min_to_one(sde, distribution):
    t = np.asarray(distribution.quantile(sde, jnp.linspace(0, 1, 257)))
    assert t.dtype == np.float32 and np.all(np.diff(t) >= 0)
    assert t.min() >= np.float32(sde.t_min) and t.max() <= 1
    if (values := cdf(distribution, sde, t)) is not None:  # in probability: float32 ends a normal at 1 - 1e-7
        np.testing.assert_allclose(values, np.linspace(0, 1, 257), atol=1e-5)


def test_draws_follow_the_stated_distribution(sde, distribution):
    t = draw_times(jax.random.key(8), sde, 4000, distribution, stratified=False)
    if (values := cdf(distribution, sde, t)) is not None:
        assert stats.kstest(values, "uniform").pvalue > 1e-6  # missed by a right code once in 1e6 runs


def test_stratified_draws_fall_one_in_each_stratum_and_vary_less(sde, distribution):
    t = draw_times(jax.random.key(9), sde, 64, distribution)
    if (values := cdf(distribution, sde, t)) is not None:
        assert np.all(np.abs(values - (np.arange(64) + 0.5) / 64) < 0.5 / 64 + 1e-4)
    keys = jax.random.split(jax.random.key(10), 100)
    many = [jax.jit(jax.vmap(lambda k, s=s: draw_times(k, sde, 16, distribution, s)))(keys) for s in (True, False)]
    spread = [np.std(np.mean(level(sde, t), 1)) for t in many]
    assert spread[0] < 0.5 * spread[1]  # about 1/16 where the level is smooth in u; each of the two is known to 7 %


def test_settings_of_the_log_normal_are_those_of_the_levels():
    t = draw_times(jax.random.key(0), VP(), 4000, LogNormal(mean=0.3, std=0.5))
    x = level(VP(), t)  # stratified, so that the moments of the cut-off-free normal are met to about 1 / 4000
    np.testing.assert_allclose([x.mean(), x.std()], [0.3, 0.5], atol=2e-3)
