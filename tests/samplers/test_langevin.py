"""Langevin steps that follow norms: not affine, so their moments are checked by Monte Carlo, in 64 dimensions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import EulerMaruyama, Langevin, PredictorCorrector, grids, sample
from sde_lib import Gaussian, in_float64

D, DATA = 64, Gaussian(np.full(64, 0.5), 0.25 * np.eye(64))


@eqx.filter_jit
def one_step(sampler, denoise, coefficients, x):
    keys = jax.random.split(jax.random.key(4), len(x))
    return sampler.step(keys, denoise, x, coefficients, (), None)[0]


@pytest.mark.parametrize("norms", ["sample", "batch"])
def test_one_step_moves_the_squared_distance_as_calculated(sde, norms):
    # At squared distance r from the mean of N(m, v I) the score is -(x - m) / v, so with a = 2 (A snr)^2 v and q = |z|^2 the step size is
    # e = a v q / r. As z and -z are equally likely, E |x' - m|^2 = r E (1 - e/v)^2 + 2 E e q = r - 2 a E q + (a + 2 v) (a / r) E q^2,
    # with E q = d and E q^2 = d (d + 2). A mean of norms over a large batch fixes e at a v (d - 1/2) / r instead, as E |z| = sqrt(d - 1/2).
    # 8192 draws of |x' - m|^2: 5 standard errors of their mean, false-alarm probability 6e-7.
    n, snr, t = 8192, 0.4, np.array([0.4, 0.399])
    with jax.enable_x64(True):
        alpha, sigma = (np.asarray(m) for m in sde.marginal(jnp.asarray(t)))
    v = 0.25 * alpha[0] ** 2 + sigma[0] ** 2
    r = 3 * D * v
    sampler = Langevin(snr=snr, norms=norms)
    coefficients = jax.tree.map(
        lambda c: jnp.asarray(c[0], jnp.float32), in_float64(sampler.plan, sde, t)
    )
    mean = 0.5 * alpha[0]
    start = jnp.full((n, D), mean + np.sqrt(r / D), jnp.float32)
    squares = np.sum(
        (np.asarray(one_step(sampler, DATA.denoiser(sde), coefficients, start), np.float64) - mean)
        ** 2,
        1,
    )
    a = 2 * (alpha[0] / alpha[1] * snr) ** 2 * v
    q, qq, eq = (
        (D, D * (D + 2), D * (D + 2))
        if norms == "sample"
        else (D - 0.5, (D - 0.5) ** 2, (D - 0.5) * D)
    )
    expected = r - 2 * a * q + a**2 * qq / r + 2 * a * v * eq / r
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(n) + 1e-4 * r, (
        squares.mean(),
        expected,
    )
    assert abs(expected - r) > 50 * squares.std() / np.sqrt(
        n
    )  # the test would notice a missing step


def test_as_a_corrector_it_keeps_the_marginals(sde):
    # 512 x 64 independent values: 5 standard errors are 0.028 of a standard deviation and 0.039 of a variance, passed by 6e-7 of right
    # codes. As a step grows where |x - m| is small, even tiny ones leave the variance up to about 4 / d too wide.
    sampler = PredictorCorrector(EulerMaruyama(), Langevin(snr=0.05))
    mean, cov = DATA.moments(sde, 1.0)
    x = mean[None] + jnp.sqrt(cov[0, 0]) * jax.random.normal(jax.random.key(1), (512, D))
    end = sample(
        jax.random.key(2),
        sampler,
        DATA.denoiser(sde),
        sde,
        grids.quadratic(sde, 300, end=0.01),
        x,
        denoise_last=False,
    ).x
    mean, cov = DATA.moments(sde, 0.01)
    std = float(jnp.sqrt(cov[0, 0]))
    assert abs(float(jnp.mean(end)) - float(mean[0])) < 0.028 * std
    assert abs(float(jnp.var(end)) / std**2 - 1) < 0.039 + 4 / D


def test_norms_of_a_sample_are_those_of_a_batch_of_one(sde):
    t = np.array([0.4, 0.399])
    x = 0.7 * jax.random.normal(jax.random.key(0), (3, D))
    alone, whole = Langevin(norms="sample"), Langevin(norms="batch")
    coefficients = jax.tree.map(
        lambda c: jnp.asarray(c[0], jnp.float32), in_float64(alone.plan, sde, t)
    )
    keys, denoise = jax.random.split(jax.random.key(4), 3), DATA.denoiser(sde)
    each = [
        whole.step(keys[i : i + 1], denoise, x[i : i + 1], coefficients, (), None)[0]
        for i in range(3)
    ]
    np.testing.assert_allclose(
        alone.step(keys, denoise, x, coefficients, (), None)[0],
        jnp.concatenate(each),
        rtol=1e-5,
        atol=1e-5,
    )
