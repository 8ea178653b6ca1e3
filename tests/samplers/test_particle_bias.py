"""The mean weight of a guided walk between two Gaussians, exactly, step by step: no particles needed.

With linear denoisers a walk and the logs of its weights are Gaussian and quadratic, so that the mean
weight of the *discrete* walk follows from a recursion over its steps. Its distance from the integral
of the law is what the steps are too long for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import draw_prior, grids
from samplers.particles import guided_particles
from samplers.particles.weighted_walk import plan_of
from sde_lib import VP, Gaussian, in_float64

SDE = VP()
ETA = 3.0
WEAK = (0.0, 0.5)  # mean and variance of q_u
STRONG = (0.3, 0.1)  # of q_c


def log_integral(power):
    """Return the log of the integral of q_u^(1 - power) q_c^power."""
    precision, linear, constant = 0.0, 0.0, 0.0
    for share, (mean, variance) in ((1 - power, WEAK), (power, STRONG)):
        precision += share / variance
        linear += share * mean / variance
        constant -= 0.5 * share * (np.log(2 * np.pi * variance) + mean**2 / variance)
    return constant + 0.5 * np.log(2 * np.pi / precision) + 0.5 * linear**2 / precision


def estimates(mean, variance, alpha, sigma):
    """Return slope and value at 0 of the expected clean data and of the expected noise."""
    total = alpha**2 * variance + sigma**2
    gain = alpha * variance / total
    return np.array(
        [gain, mean - gain * alpha * mean, sigma / total, -sigma * alpha * mean / total]
    )


def log_mean_weight(power, ts, eta=ETA):
    """Return the log of the mean weight of the discrete walk from N(0, 1) on the times `ts`.

    The log of what is to come is h11 x^2 / 2 + h12 x p + h22 p^2 / 2 + g1 x + g2 p + c in the state
    x and the last expected data p.
    """
    plan = in_float64(plan_of, SDE, ts, 0.5 * (1 + eta), eta)
    steps = jax.tree.map(np.asarray, plan.steps)
    alphas, sigmas = in_float64(SDE.marginal, ts)
    rate = power * (power - 1)

    def guided(i):
        weak = estimates(*WEAK, float(alphas[i]), float(sigmas[i]))
        strong = estimates(*STRONG, float(alphas[i]), float(sigmas[i]))
        slope, value = (weak + power * (strong - weak))[:2]
        return slope, value, *(strong - weak)[2:]

    _, _, slope, value = guided(len(ts) - 1)
    length = float(plan.last_length) * rate
    h = np.array([[2 * length * slope**2, 0.0], [0.0, 0.0]])
    g = np.array([2 * length * slope * value, 0.0])
    c = length * value**2
    for i in reversed(range(len(ts) - 1)):
        data_slope, data, slope, value = guided(i)
        variance = steps.noise_scale[i] ** 2
        # The next state is move z + mean + noise, the next p is look z + data, for z = (x, p).
        move = np.array([steps.keep[i] + steps.data[i] * data_slope, steps.past[i]])
        mean = steps.data[i] * data
        look = np.array([data_slope, 0.0])
        pull = h[0, 1] * look
        pulled = h[0, 1] * data + g[0]
        less = 1 - variance * h[0, 0]
        new_h = h[0, 0] * np.outer(move, move) + np.outer(pull, move) + np.outer(move, pull)
        new_h = (new_h + variance * np.outer(pull, pull)) / less + h[1, 1] * np.outer(look, look)
        new_g = h[0, 0] * mean * move + mean * pull + pulled * move + variance * pulled * pull
        new_g = new_g / less + (h[1, 1] * data + g[1]) * look
        squares = 0.5 * h[0, 0] * mean**2 + pulled * mean + 0.5 * variance * pulled**2
        c += squares / less - 0.5 * np.log(less) + 0.5 * h[1, 1] * data**2 + g[1] * data
        length = float(steps.length[i]) * rate
        new_h[0, 0] += 2 * length * slope**2
        new_g[0] += 2 * length * slope * value
        c += length * value**2
        h, g = new_h, new_g
    less = 1 - h[0, 0]
    return c - 0.5 * np.log(less) + 0.5 * g[0] ** 2 / less


@pytest.mark.parametrize("power", (0.5, 2.0, 4.0, 8.0))
def test_the_bias_of_the_normaliser_falls_as_the_square_of_the_steps(power):
    # Down to 1e-3 of the exact integral, at eight times the steps that the docstring names.
    steps = int(50 * max(power, 1.0))
    errors = [
        log_mean_weight(power, np.asarray(grids.log_snr(SDE, steps * k))) - log_integral(power)
        for k in (1, 2, 4, 8)
    ]
    assert abs(errors[-1]) < 1e-3
    orders = np.log2(np.abs(np.array(errors[:-1]) / errors[1:]))
    assert np.all(orders > 1.55) and np.all(orders < 2.4)


def test_the_rate_is_integrated_by_trapezoids():
    # On equal steps rectangles would give nearly the same.
    ts = np.asarray(grids.centred(SDE, 20))
    plan = in_float64(plan_of, SDE, ts, 2.0, ETA)
    alpha, sigma = in_float64(SDE.marginal, ts)
    lam = np.log(np.asarray(alpha) / np.asarray(sigma))
    np.testing.assert_allclose(plan.steps.length[1:], 0.5 * (lam[2:] - lam[:-2]), rtol=1e-9)
    np.testing.assert_allclose(plan.steps.length[0], 0.5 * (lam[1] - lam[0]), rtol=1e-9)


@pytest.mark.parametrize("power", (2.0, 4.0, 8.0))
def test_steps_where_data_take_shape_halve_it(power):
    steps = int(50 * power)
    plain, dense = (
        log_mean_weight(power, np.asarray(grid(SDE, steps))) - log_integral(power)
        for grid in (grids.log_snr, grids.centred)
    )
    assert abs(dense) < 0.5 * abs(plain)


def test_particles_have_the_normaliser_of_their_discrete_walk():
    # Half the steps that are usual at power 4, where the bias is 0.08. Fixed seed.
    weak, strong = (Gaussian([m], [[v]]).denoiser(SDE) for m, v in (WEAK, STRONG))

    def denoise(x, t, cond=None):
        return (weak if cond is None else strong)(x, t)

    ts = grids.log_snr(SDE, 100)
    key, n = jax.random.key(0), 20_000
    x = draw_prior(key, SDE, (n, 1))
    got = guided_particles(key, denoise, SDE, ts, x, cond=jnp.zeros(n, int), power=4.0, eta=ETA)
    expected = log_mean_weight(4.0, np.asarray(ts))
    assert abs(expected - log_integral(4.0)) > 0.07
    assert abs(float(got.log_normaliser) - expected) < 0.03
