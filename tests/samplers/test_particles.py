"""Weighted particles against Gaussians in closed form, densities on a grid, and walks without weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from samplers import DPMpp2MSDE, draw_prior, grids, sample
from samplers.particles import (
    effective_sample_size,
    guided_particles,
    log_mean_weight,
    resample,
    systematic,
    tempered_particles,
)
from sde_lib import VE, VP, Gaussian, GaussianMixture, LabelledMixture, Rectified

KEY, SDE = jax.random.key(0), VP()
N = 4000
# The class is a half of the line, more or less: the unconditional law is wider than the conditional one.
DATA = LabelledMixture(
    GaussianMixture([0.6, 0.4], [[0.4], [-0.5]], [[[0.3**2]], [[0.4**2]]]), [0, 1]
)
DENOISE = DATA.denoiser(SDE)
GRID = np.linspace(-4, 4, 20_001)


def law(power):
    """Return mean, standard deviation and log-normaliser of the power on the grid, in float64."""
    conditional = norm(0.4, 0.3).logpdf(GRID)
    whole = np.logaddexp(np.log(0.6) + conditional, np.log(0.4) + norm(-0.5, 0.4).logpdf(GRID))
    return moments((1 - power) * whole + power * conditional)


def moments(log_density):
    density = np.exp(log_density - log_density.max())
    integral = np.trapezoid(density, GRID)
    mean = np.trapezoid(density * GRID, GRID) / integral
    sd = np.sqrt(np.trapezoid(density * (GRID - mean) ** 2, GRID) / integral)
    return mean, sd, np.log(integral) + log_density.max()


def walked(seed, n=N, steps=100, label=0, sde=SDE, **settings):
    key = jax.random.key(seed)
    x = draw_prior(key, sde, (n, 1))
    ts = grids.log_snr(sde, steps)
    cond = jnp.full(n, label)
    return guided_particles(key, DATA.denoiser(sde), sde, ts, x, cond=cond, **settings)


def weighted(particles):
    """Return mean, standard deviation and log-normaliser."""
    weights = np.asarray(jax.nn.softmax(particles.log_weights), float)
    x = np.asarray(particles.x, float)[:, 0]
    mean = weights @ x
    sd = np.sqrt(weights @ (x - mean) ** 2)
    return np.array([mean, sd, float(particles.log_normaliser)])


@pytest.mark.parametrize("eta", [1.0, 3.0])
def test_at_power_1_it_is_conditional_sampling(eta):
    ts = grids.log_snr(SDE, 20)
    x, cond = draw_prior(KEY, SDE, (8, 1)), jnp.ones(8, int)
    plain = sample(KEY, DPMpp2MSDE(eta), DENOISE, SDE, ts, x, cond=cond)
    for threshold in (0.5, 1.0):
        got = guided_particles(
            KEY, DENOISE, SDE, ts, x, cond=cond, power=1.0, eta=eta, threshold=threshold
        )
        np.testing.assert_allclose(got.x, plain.x, atol=1e-5)
        np.testing.assert_array_equal(got.log_weights, np.zeros(8))
        np.testing.assert_array_equal(got.ess, np.full(21, 8.0))
        assert float(got.log_normaliser) == 0.0
        assert int(got.nfe) == 2 * int(plain.nfe) == 42


@pytest.mark.parametrize("power", [0.5, 2.0, 4.0])
def test_powers_have_the_moments_and_the_normaliser_of_their_law(power):
    # Eight runs; a mean of theirs is allowed 4.5 standard errors by Student's t with 7 degrees of freedom (three numbers in three
    # laws: a false alarm in 2 % of all seeds, fixed here) and 0.006 for the step length.
    runs = np.array([weighted(walked(seed, steps=200, power=power)) for seed in range(8)])
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(8)
    assert np.all(error < [0.004, 0.003, 0.015])
    np.testing.assert_array_less(np.abs(runs.mean(0) - law(power)), 4.5 * error + 0.006)


def test_plain_guidance_does_not_sample_the_power():
    # Without weights and resampling the same walk is off by 0.037; the standard error of its mean is below 0.004.
    mean = float(jnp.mean(walked(0, power=4.0, threshold=0.0).x))
    assert abs(mean - law(4.0)[0]) > 0.02


@pytest.mark.parametrize("sde", [VP(), VE(), Rectified()], ids=lambda s: type(s).__name__)
def test_ends_of_the_process_leave_the_weights_finite(sde):
    # From no signal at all (Rectified at t = 1) to clean data (at t = 0). One run: the standard error of the log-normaliser is 0.01.
    ts = np.append(grids.log_snr(sde, 100, start=0.999), 0.0)
    if isinstance(sde, Rectified):
        ts = np.append(1.0, ts)
    sde = type(sde)(t_min=0.0)
    x, cond = draw_prior(KEY, sde, (N, 1)), jnp.zeros(N, int)
    got = guided_particles(KEY, DATA.denoiser(sde), sde, ts, x, cond=cond, power=2.0)
    assert np.all(np.isfinite(got.log_weights))
    last = 0 if float(sde.marginal(jnp.zeros(()))[1]) == 0 else 1
    assert int(got.nfe) == 2 * (len(ts) - 1 + last) and len(got.ess) == len(ts)
    np.testing.assert_allclose(float(got.log_normaliser), law(2.0)[2], atol=0.05)


def test_the_last_half_step_is_weighted():
    # All weights together, without resampling: with 20 against 80 steps the normaliser is the same but for the rule's error.
    coarse, fine = (
        float(walked(0, steps=n, power=2.0, threshold=0.0, eta=1.0).log_normaliser)
        for n in (40, 160)
    )
    assert abs(coarse - fine) < 0.05 and abs(fine - law(2.0)[2]) < 0.05


def test_weights_of_the_start_count():
    # Drawn from N(1, 1) instead of the prior, then weighted; without the weights the start is forgotten but for the normaliser.
    x = 1.0 + jax.random.normal(KEY, (N, 1))
    log_weights = jnp.asarray(norm.logpdf(x[:, 0]) - norm.logpdf(x[:, 0], 1.0))
    ts = grids.log_snr(SDE, 100)
    cond = jnp.zeros(N, int)
    got = guided_particles(KEY, DENOISE, SDE, ts, x, cond=cond, power=2.0, log_weights=log_weights)
    np.testing.assert_allclose(weighted(got), law(2.0), atol=0.06)
    shifted = guided_particles(
        KEY, DENOISE, SDE, ts, x, cond=cond, power=2.0, log_weights=log_weights + 1.0
    )
    np.testing.assert_allclose(shifted.log_normaliser - got.log_normaliser, 1.0, atol=1e-4)


@pytest.mark.parametrize("power", [0.7, 2.0])
def test_the_power_of_a_gaussian(power):
    # Of N(m, v): N(m, v / b) with the integral (2 pi v)^((1 - b) / 2) b^(-1/2). Eight runs, as above.
    mean, variance = 0.3, 0.49
    denoise = Gaussian([mean], [[variance]]).denoiser(SDE)
    ts = grids.log_snr(SDE, 200)
    runs = []
    for seed in range(8):
        key = jax.random.key(seed)
        x = draw_prior(key, SDE, (N, 1))
        runs.append(weighted(tempered_particles(key, denoise, SDE, ts, x, power=power)))
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(8)
    size = 0.5 * (1 - power) * np.log(2 * np.pi * variance) - 0.5 * np.log(power)
    expected = [mean, np.sqrt(variance / power), size]
    np.testing.assert_array_less(error, [0.006, 0.006, 0.03])
    np.testing.assert_array_less(np.abs(np.mean(runs, 0) - expected), 4.5 * error + 0.01)


def test_effective_size_and_mean_weight():
    weights = np.array([0.5, 2.0, 1.0, 0.25])
    logs = jnp.log(weights) + 100.0
    np.testing.assert_allclose(
        effective_sample_size(logs), weights.sum() ** 2 / np.sum(weights**2), rtol=1e-5
    )
    np.testing.assert_allclose(log_mean_weight(logs), np.log(weights.mean()) + 100, rtol=1e-6)
    assert float(effective_sample_size(jnp.full(100_000, -7.0))) == 100_000


def test_systematic_resampling_takes_each_particle_floor_or_ceiling_times():
    # The mean over 2000 keys of a count has a standard error below 0.5 / sqrt(2000) = 0.011; six counts within five of them, 4e-6.
    shares = np.array([0.4, 0.0, 0.05, 0.3, 0.25, 0.0])
    logs = jnp.log(jnp.asarray(shares)) - 3.0
    ancestors = np.asarray(jax.vmap(lambda k: systematic(k, logs))(jax.random.split(KEY, 2000)))
    counts = np.stack([np.bincount(row, minlength=6) for row in ancestors])
    expected = 6 * shares
    assert np.all(counts >= np.floor(expected - 1e-5)) and np.all(counts <= np.ceil(expected))
    np.testing.assert_allclose(counts.mean(0), expected, atol=0.056)
    assert np.all(np.diff(ancestors, axis=1) >= 0)


def test_resampling_waits_for_the_threshold_and_keeps_the_mean_weight():
    particles = {"x": jnp.arange(12.0).reshape(4, 3), "index": jnp.arange(4)}
    logs = jnp.log(jnp.array([1.0, 1.0, 1.0, 5.0]))  # an effective size of 64 / 28 = 0.57 of 4
    rested = resample(KEY, logs, particles, 0.5)
    np.testing.assert_array_equal(rested.particles["index"], np.arange(4))
    np.testing.assert_array_equal(rested.log_weights, logs)
    assert float(rested.log_mean) == 0.0
    done = jax.jit(resample)(KEY, logs, particles, 0.6)
    np.testing.assert_allclose(done.log_mean, np.log(2.0), rtol=1e-6)
    np.testing.assert_array_equal(done.log_weights, np.zeros(4))
    np.testing.assert_array_equal(done.particles["x"][:, 0], 3 * done.particles["index"])
    assert np.bincount(done.particles["index"], minlength=4)[3] >= 2
    np.testing.assert_allclose(done.ess, 64 / 28, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"power": np.nan}, "need a finite power, got nan"),
        ({"eta": 0.0}, "need eta > 0, got 0.0"),
        ({"threshold": 1.5}, "need a threshold from 0 to 1, got 1.5"),
        ({"cond": jnp.array([0, 1, 0])}, "all particles .* same conditions.* jax.vmap"),
        ({"cond": None}, "no condition to guide to"),
        (
            {"log_weights": jnp.zeros(2)},
            r"log-weight for each of the 3 particles, got shape \(2,\)",
        ),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changed, message):
    settings = {"cond": jnp.zeros(3, int), "power": 2.0} | changed
    ts = grids.log_snr(SDE, 4)
    with pytest.raises(ValueError, match=message):
        guided_particles(KEY, DENOISE, SDE, ts, jnp.ones((3, 1)), **settings)


def test_powers_that_cannot_be_tempered_are_refused():
    denoise = DATA.mixture.denoiser(SDE)
    x, ts = jnp.ones((3, 1)), grids.log_snr(SDE, 4)
    for power, eta in ((0.4, 1.0), (-1.0, 3.0)):
        with pytest.raises(ValueError, match=r"need power above 0 and above 1 / \(1 \+ eta\), got"):
            tempered_particles(KEY, denoise, SDE, ts, x, power=power, eta=eta)
    with pytest.raises(
        ValueError, match=r"Rectified leaves no signal at ts\[0\] = 1, .*start=0.99"
    ):
        tempered_particles(KEY, denoise, Rectified(), np.array([1.0, 0.5, 0.1]), x, power=2.0)
