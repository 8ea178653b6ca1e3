"""The losses against their known minimum and the errors that their weightings stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import (
    PREDICTIONS,
    VE,
    VP,
    WEIGHTINGS,
    Denoiser,
    Gaussian,
    Rectified,
    denoising_loss,
    expand,
    in_float64,
    sliced_loss,
    uncertainty,
    uncertainty_loss,
)
from sde_lib.loss_uncertainty import features

COV = np.array([[0.25, 0.06], [0.06, 0.04]])
DATA = Gaussian([0.0, 0.0], COV)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_weighting_is_the_error_that_it_stands_for(sde, prediction):
    key, t = jax.random.key(4), np.linspace(0.02, 0.98, 7)
    with jax.enable_x64(True):
        x0, value = (
            jax.random.normal(jax.random.key(1), (7, 2, 3)),
            jax.random.normal(jax.random.key(2), (7, 2, 3)),
        )
        x, noise = sde.perturb(key, x0, t)
        denoiser = Denoiser(lambda x, signal, cond: value, sde, prediction, "time")
        (alpha, sigma), (a, b), g = (
            sde.marginal(expand(t, x)),
            denoiser.combination(expand(t, x)),
            sde.coefficients(expand(t, x))[1],
        )
        got = denoiser(x, t)
        errors = {
            "prediction": value - a * x0 - b * noise,
            "noise": got.noise - noise,
            "x0": got.x0 - x0,
            "likelihood": g * (-got.noise / sigma + noise / sigma),  # of the score, under g^2
            "min_snr": jnp.minimum(alpha / sigma, 5**0.5) * (got.x0 - x0),
            "sigmoid": (got.noise - noise) / jnp.sqrt(1 + jnp.exp(-2.0) * (alpha / sigma) ** 2),
        }
        assert set(errors) == set(WEIGHTINGS)
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
    # The loss left is the posterior variance: of the noise alpha^2 c / h^2 along each eigenvector
    # of the data, c its variance and h^2 = alpha^2 c + sigma^2. 4096 samples a time; means within 5
    # standard errors; false-alarm probability 1e-5.
    t = jnp.repeat(jnp.array([0.05, 0.3, 0.8]), 4096)
    x0 = DATA.sample(jax.random.key(0), len(t))

    @jax.jit
    def losses(shift, slope):
        denoiser = Denoiser(network(sde, prediction, shift, slope), sde, prediction, "time")
        return denoising_loss(jax.random.key(1), denoiser, x0, t, weighting="noise").reshape(3, -1)

    c = np.linalg.eigvalsh(COV)
    alpha, sigma = (
        v[:, None] for v in in_float64(sde.marginal, np.array([0.05, 0.3, 0.8], np.float32))
    )
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
    assert denoising_loss(
        jax.random.key(0), denoiser, jnp.ones((3, 4, 4, 2)), jnp.full(3, 0.5), cond="label"
    ).shape == (3,)
    assert seen == ["label"]


def test_the_loss_refuses_unknown_weightings_and_other_times():
    denoiser = Denoiser(lambda x, signal, cond: x, VP())
    with pytest.raises(
        ValueError,
        match="unknown weighting 'uniform'; choose one of likelihood, min_snr, noise, prediction, "
        "sigmoid, x0",
    ):
        denoising_loss(
            jax.random.key(0), denoiser, jnp.ones((3, 2)), jnp.full(3, 0.5), weighting="uniform"
        )
    with pytest.raises(Exception, match=r"\(4,\)|batch"):
        denoising_loss(jax.random.key(0), denoiser, jnp.ones((3, 2)), jnp.full(4, 0.5))


def test_flow_matching_is_the_loss_of_the_velocity_on_straight_lines():
    key, t = jax.random.key(4), jnp.array([0.1, 0.5, 1.0])
    x0, value = jax.random.normal(jax.random.key(1), (3, 2)), jnp.full((3, 2), 0.3)
    noise = Rectified().perturb(key, x0, t)[1]
    loss = denoising_loss(
        key, Denoiser(lambda x, s, c: value, Rectified(), "velocity", "time"), x0, t
    )
    np.testing.assert_allclose(loss, jnp.mean((value - (noise - x0)) ** 2, 1), rtol=1e-5)


@pytest.mark.parametrize(("weighting", "prediction"), [("noise", "edm"), ("likelihood", "noise")])
def test_the_sliced_loss_is_the_denoising_loss_but_for_a_constant(weighting, prediction):
    # At weight "noise" the constant is 1, at others the ratio of the weights. 40 000 draws, 5
    # standard errors of the difference.
    sde, n = VP(), 40_000
    t, x0 = jnp.full(n, 0.3), DATA.sample(jax.random.key(0), n)
    denoiser = Denoiser(lambda x, signal, cond: jnp.tanh(x) + 0.1, sde, prediction, "time")
    denoising = np.asarray(
        denoising_loss(jax.random.key(1), denoiser, x0, t, weighting=weighting), np.float64
    )
    sliced = np.asarray(
        sliced_loss(jax.random.key(2), denoiser, x0, t, weighting=weighting), np.float64
    )
    g, sigma = (
        float(v) for v in (in_float64(sde.coefficients, 0.3)[1], in_float64(sde.marginal, 0.3)[1])
    )
    constant = (g / sigma) ** 2 if weighting == "likelihood" else 1.0
    error = np.sqrt((denoising.var() + sliced.var()) / n)
    assert abs(denoising.mean() - sliced.mean() - constant) < 5 * error
    assert error < 0.02 * constant  # it would notice half the constant, or the factor 2


def test_the_learned_uncertainty_has_its_minimum_at_the_log_of_the_loss():
    sde, t = VP(), jnp.linspace(0.05, 0.95, 6)
    np.testing.assert_array_equal(uncertainty(jnp.zeros(64), sde, t), 0)
    loss = jnp.exp(2 * t - 1)
    np.testing.assert_array_equal(uncertainty_loss(loss, jnp.zeros(6)), loss)
    slope = jax.grad(lambda u: uncertainty_loss(loss, u).sum())
    np.testing.assert_allclose(slope(jnp.log(loss)), 0, atol=1e-6)
    weights = jnp.asarray(
        np.linalg.lstsq(
            np.asarray(features(sde, t), np.float64), np.asarray(jnp.log(loss)), rcond=None
        )[0],
        jnp.float32,
    )
    # it can be any function of the level
    np.testing.assert_allclose(uncertainty(weights, sde, t), jnp.log(loss), atol=1e-3)
    assert np.all(np.isfinite(features(Rectified(), jnp.array([0.0, 1.0]))))


def test_the_features_of_the_uncertainty_are_those_of_a_gaussian_kernel_in_the_level():
    """Products of features are exp(-(2 pi d)^2 / 2), but for their being 64.

    d is the distance of their levels log(sigma / alpha) / 4.
    """
    sde = Rectified()
    level = jnp.linspace(-1.5, 1.5, 200)
    here = np.asarray(features(sde, sde.time(-8 * level)), np.float64)
    np.testing.assert_allclose(np.sum(here**2, 1).mean(), 1, atol=0.02)
    for distance in (0.05, 0.1, 0.2):
        there = np.asarray(features(sde, sde.time(-8 * (level + distance))), np.float64)
        kernel = np.exp(-((2 * np.pi * distance) ** 2) / 2)
        np.testing.assert_allclose(np.sum(here * there, 1).mean(), kernel, atol=0.1)


def test_the_uncertainty_tells_levels_apart_up_to_the_stated_ones_and_none_beyond():
    """As far as log(sigma / alpha) = +-12."""
    sde = VE(1e-7, 1e7)
    row = features(sde, sde.time(2 * jnp.array([-16.0, -12.5, -11.5, -10.0, 10.0, 11.5, 12.5])))
    distance = np.linalg.norm(np.diff(np.asarray(row), axis=0), axis=1)
    assert distance[0] == 0 and np.all(distance[2:5] > 0.1) and distance[1] > 0.1
    np.testing.assert_array_equal(
        features(sde, sde.time(jnp.array([25.0])))[0], features(sde, sde.time(jnp.array([30.0])))[0]
    )


@pytest.mark.parametrize("first_pass", [False, True])
def test_self_conditioning_is_trained_on_its_first_answer_without_its_gradient(first_pass):
    """With F = a x + b last / sd and last = a x of a first pass, or 0, held fixed."""
    sde, sd, a, b = VP(), 0.7, 0.4, 0.3
    key, t = jax.random.key(4), jnp.array([0.2, 0.6, 0.9])
    x0 = jax.random.normal(jax.random.key(1), (3, 2))
    x = np.asarray(sde.perturb(key, x0, t)[0], float)

    def loss(weights):
        def net(x, signal, cond, last):
            return weights[0] * x + weights[1] * last

        denoiser = Denoiser(net, sde, "x0", "time", sd, self_conditioning=True)
        return jnp.sum(denoising_loss(key, denoiser, x0, t, first_pass=first_pass))

    value, slopes = jax.value_and_grad(loss)(jnp.array([a, b]))
    last = a * x / sd if first_pass else 0 * x
    error = a * x + b * last - np.asarray(x0, float)
    np.testing.assert_allclose(value, np.sum(error**2) / 2, rtol=1e-5)
    expected = [np.sum(error * x), np.sum(error * last)]
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)


def test_the_sliced_loss_is_given_the_first_answer_as_well():
    """With noise = x0 = last / sd the estimate of the noise does not depend on x but by its sum."""
    sde, sd = VP(), 0.5
    key, t = jax.random.key(4), jnp.array([0.3, 0.7])
    x0 = jax.random.normal(jax.random.key(1), (2, 3))
    denoiser = Denoiser(
        lambda x, signal, cond, last: 0.4 * x + 0.3 * last, sde, "noise", "time", sd, True
    )
    noise_key, _ = jax.random.split(key)
    x = np.asarray(sde.perturb(noise_key, x0, t)[0], float)
    alpha, sigma = (np.asarray(v, float)[:, None] for v in sde.marginal(t))
    for first_pass in (False, True):
        last = (x - sigma * 0.4 * x) / alpha if first_pass else 0 * x
        noise = 0.4 * x + 0.3 * last / sd
        expected = np.mean(noise**2 - 2 * sigma * 0.4, axis=1)
        got = sliced_loss(key, denoiser, x0, t, first_pass=first_pass)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
