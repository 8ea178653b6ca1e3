"""The times of training against their stated distributions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import sde_lib
from sde_lib import (
    VP,
    Binned,
    Discrete,
    Levels,
    LogNormal,
    LogUniform,
    SubVP,
    TimeDistribution,
    Uniform,
    draw_quantiles,
    draw_times,
    in_float64,
    reweighted,
)


class Late(TimeDistribution):
    """A distribution as a user would write it, whose distribution function no test knows."""

    def quantile(self, sde, u):
        return sde.t_min + (1 - sde.t_min) * jnp.sqrt(u)


OWN = (Levels, Binned)  # with tests of their own below
LARGEST = np.nextafter(np.float32(1), np.float32(0))  # of the numbers that are drawn
CLASSES = [
    c
    for _, c in inspect.getmembers(sde_lib, inspect.isclass)
    if issubclass(c, TimeDistribution) and c not in OWN
]


@pytest.fixture(
    params=[*[c for c in CLASSES if not inspect.isabstract(c)], Late], ids=lambda c: c.__name__
)
def distribution(request, sde):
    if request.param is LogUniform and not np.isfinite(in_float64(sde.log_snr, 1.0)):
        with pytest.raises(
            ValueError, match="to -inf at 1, where nothing is uniform; .* set log_snr_min"
        ):
            LogUniform().quantile(sde, jnp.ones(1))
        return LogUniform(log_snr_min=-10.0)
    return request.param()


def level(sde, t):
    return -0.5 * in_float64(sde.log_snr, t)


def cdf(distribution, sde, t):
    """Return the distribution function that the docstring of each class states, in float64; that of a new class is found by inversion."""
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
        case _:
            u = np.linspace(0, 1, 20_001)
            quantiles = np.asarray(distribution.quantile(sde, jnp.asarray(u, jnp.float32)))
            assert np.all(np.diff(quantiles) > 0), "a density without gaps has rising quantiles"
            return np.interp(t, quantiles.astype(np.float64), u)


def test_quantiles_rise_from_t_min_to_one(sde, distribution):
    t = np.asarray(distribution.quantile(sde, jnp.linspace(0, 1, 257)))
    assert t.dtype == np.float32 and np.all(np.diff(t) >= 0)
    assert t.min() >= np.float32(sde.t_min) and t.max() <= 1
    # in probability: float32 ends a normal at 1 - 1e-7
    np.testing.assert_allclose(cdf(distribution, sde, t), np.linspace(0, 1, 257), atol=1e-5)


def test_draws_follow_the_stated_distribution(sde, distribution):
    t = draw_times(jax.random.key(8), sde, 4000, distribution, stratified=False)
    # false-alarm probability 1e-6
    assert stats.kstest(cdf(distribution, sde, t), "uniform").pvalue > 1e-6


def test_stratified_draws_fall_one_in_each_stratum_and_vary_less(sde, distribution):
    t = draw_times(jax.random.key(9), sde, 64, distribution)
    values = cdf(distribution, sde, t)
    assert np.all(np.abs(values - (np.arange(64) + 0.5) / 64) < 0.5 / 64 + 1e-4)
    keys = jax.random.split(jax.random.key(10), 100)
    many = [
        jax.jit(jax.vmap(lambda k, s=s: draw_times(k, sde, 16, distribution, s)))(keys)
        for s in (True, False)
    ]
    deviation = [np.std(np.mean(level(sde, t), 1)) for t in many]
    # About 1/16 where the level is smooth in u. Each of the two is known to 1 / sqrt(200) = 7 %, their ratio to 10 %: from 1/4 on, which
    # no distribution here has, 1/2 is 10 standard errors away.
    assert deviation[0] < 0.5 * deviation[1]


def test_stratified_quantiles_are_uniform_in_their_strata():
    u = 64 * np.asarray(
        jax.vmap(lambda key: draw_quantiles(key, 64))(jax.random.split(jax.random.key(3), 60))
    )
    np.testing.assert_array_equal(np.floor(u), np.broadcast_to(np.arange(64), u.shape))
    assert stats.kstest((u % 1).ravel(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("batch", [1, 7, 128, 1000, 4096, 50_000, 100_000])
def test_quantiles_stay_below_one_and_in_their_strata(batch, monkeypatch):
    # jax.random.uniform draws multiples of 2^-23 below 1: the largest of them in every stratum, where sums round up.
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, 1 - 2.0**-23))
    for stratified in (True, False):
        u = np.asarray(draw_quantiles(jax.random.key(0), batch, stratified))
        assert u.dtype == np.float32 and u.max() < 1
        if stratified:
            np.testing.assert_array_equal(np.floor(u.astype(np.float64) * batch), np.arange(batch))


def test_the_quantile_that_stopped_a_training_is_below_one():
    assert draw_quantiles(jax.random.key(12542), 4096).max() < 1


def test_parts_of_the_quantiles_stay_below_one_and_in_themselves():
    drawn = []

    class Asked(TimeDistribution):
        def quantile(self, sde, u):
            drawn.append(np.asarray(u))
            return u

    for weights in (np.ones(3), np.arange(1.0, 8.0), np.full(1000, 0.3)):
        binned = Binned(Asked(), weights)
        ends = np.asarray(jnp.cumsum(binned.weights) / len(weights))
        binned.quantile(VP(), jnp.asarray(np.append(np.nextafter(ends, np.float32(0)), LARGEST)))
        assert drawn[-1].max() < 1
        part = np.floor(drawn[-1][:-1] * np.float64(len(weights)) + 1e-9)
        np.testing.assert_array_equal(part, np.arange(len(weights)))


def test_a_part_without_draws_gets_the_mean_of_the_others():
    start = Binned(Uniform(), jnp.ones(4))
    u, loss = jnp.array([0.1, 0.2, 0.3, 0.8]), jnp.array([1.0, 1.0, 2.0, 3.0])
    weights = np.asarray(reweighted(start, u, loss).weights)  # root mean squares 1, 2, none, 3
    np.testing.assert_allclose(weights, [0.5, 1.0, 1.0, 1.5], rtol=1e-6)


def test_settings_of_the_log_normal_are_those_of_the_levels():
    t = draw_times(jax.random.key(0), VP(), 4000, LogNormal(mean=0.3, std=0.5))
    x = level(
        VP(), t
    )  # stratified, so that the moments of the cut-off-free normal are met to about 1 / 4000
    np.testing.assert_allclose([x.mean(), x.std()], [0.3, 0.5], atol=2e-3)
    wide, u = LogNormal(mean=0.3, std=5.0), jnp.linspace(0.01, 0.99, 9)  # cut at both ends
    np.testing.assert_allclose(cdf(wide, VP(), wide.quantile(VP(), u)), u, atol=1e-4)


@pytest.mark.parametrize(("sde", "z"), [(VP(), 23.86), (SubVP(), 37.68)])
def test_uniform_in_the_log_snr_is_in_proportion_to_g_squared_over_sigma_squared(sde, z):
    # arXiv:2101.09258: the constant Z = integral of g^2 / sigma^2 from 1e-5 to 1, and the quantiles of that density by quadrature.
    t = np.geomspace(1e-5, 1, 20_001)
    density = (in_float64(sde.coefficients, t)[1] / in_float64(sde.marginal, t)[1]) ** 2
    mass = np.append(
        0, np.cumsum((density[1:] * t[1:] + density[:-1] * t[:-1]) / 2 * np.diff(np.log(t)))
    )
    np.testing.assert_allclose(mass[-1], z, atol=0.005)
    u = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(
        LogUniform().quantile(sde, jnp.asarray(u, jnp.float32)),
        np.interp(u * mass[-1], mass, t),
        rtol=2e-4,
    )


def test_levels_are_met_equally_often():
    sde = Discrete(VP(), 40)
    t = np.asarray(Levels().quantile(sde, jnp.asarray((np.arange(400) + 0.5) / 400, jnp.float32)))
    values, counts = np.unique(np.round(t * 40, 4), return_counts=True)
    np.testing.assert_array_equal(values, np.arange(1, 41))
    np.testing.assert_array_equal(counts, 10)
    np.testing.assert_allclose(Levels().quantile(sde, jnp.array([0.0, 0.9999999])), [1 / 40, 1])


def test_binned_draws_go_where_the_weights_are_and_leave_the_expectation():
    binned, sde = Binned(Uniform(), [1.0, 3.0, 4.0, 8.0]), VP()
    u = draw_quantiles(jax.random.key(0), 1600)
    t, correction = np.asarray(binned.quantile(sde, u)), np.asarray(binned.correction(u))
    np.testing.assert_array_equal(np.histogram(t, [0, 0.25, 0.5, 0.75, 1])[0], [100, 300, 400, 800])
    assert np.all(np.diff(t) > 0)
    for loss in (lambda t: t, lambda t: np.exp(-3 * t)):
        exact = np.mean(loss((np.arange(10_000) + 0.5) / 10_000))
        np.testing.assert_allclose(np.mean(correction * loss(t)), exact, rtol=2e-3)
    np.testing.assert_array_equal(Uniform().correction(u), 1)
    with pytest.raises(ValueError, match="need a vector of weights > 0"):
        Binned(Uniform(), [1.0, 0.0])


def test_adapted_weights_are_the_measured_losses_and_cut_the_variance():
    # A loss of 1, 1, 1 and 9 times a squared normal: uniform draws have a variance of 3 E l^2 - (E l)^2, the best ones 3 (E l)^2 - (E l)^2.
    # 50,000 draws in a part know their root mean square to 0.7 % and the mean of all to 0.3 %, 200,000 a variance to 2 %: every bound
    # below is at least 6 standard errors wide; false-alarm probability below 1e-8.
    start, sde, size = Binned(Uniform(), jnp.ones(4)), VP(), 200_000
    scale = jnp.array([1.0, 1.0, 1.0, 9.0])

    def losses(distribution, key):
        u = draw_quantiles(key, size, stratified=False)
        t = distribution.quantile(sde, u)
        return u, scale[jnp.minimum((4 * t).astype(int), 3)] * jax.random.normal(
            jax.random.fold_in(key, 1), (size,)
        ) ** 2

    u, loss = losses(start, jax.random.key(0))
    result = reweighted(start, u, loss)
    np.testing.assert_allclose(result.weights, scale / 3, rtol=0.05)
    np.testing.assert_allclose(
        np.min(reweighted(start, u, loss, floor=0.5).weights), 0.5 / 1.125, rtol=0.02
    )  # the others give way
    v, again = losses(result, jax.random.key(1))
    corrected = np.asarray(result.correction(v) * again, np.float64)
    plain = np.asarray(loss, np.float64)
    np.testing.assert_allclose(corrected.mean(), 3, rtol=0.05)
    np.testing.assert_allclose(corrected.var() / plain.var(), (2 * 9) / (3 * 21 - 9), rtol=0.15)


def test_a_log_normal_of_which_one_percent_meets_the_process_draws_from_that_part():
    """The part of a normal beyond its 99th percentile, cut at the noisiest level of the process."""
    sde, std = sde_lib.EDM(), 0.5
    last = float(np.log(sde.sigma_max))
    times = LogNormal(mean=last + 2.326 * std, std=std)
    u = jnp.asarray([0.1, 0.5, 0.9])
    level = np.log(np.asarray(sde.noise_level(times.quantile(sde, u))))
    expected = stats.norm.ppf(np.asarray(u) * stats.norm.cdf(-2.326)) * std + times.mean
    np.testing.assert_allclose(level, expected, atol=2e-3)
