"""Latent codes: exact for Gaussian data, and functions on codes against geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import (
    LogLikelihood,
    decode,
    encode,
    nearest_codes,
    outlier_scores,
    slerp,
    with_temperature,
)
from sde_lib import VE, Gaussian

A, B = jnp.array([3.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])


def test_codes_are_the_exact_ones_and_decode_to_the_data():
    sde, data = VE(), Gaussian([0.7, -0.4], [[0.25, 0.06], [0.06, 0.04]])
    x = data.sample(jax.random.key(0), 4)
    z = encode(data.denoiser(sde), sde, x)
    np.testing.assert_allclose(z, data.flow(sde, x, sde.t_min, 1.0) / 50, atol=2e-4)
    np.testing.assert_allclose(decode(data.denoiser(sde), sde, z), x, atol=1e-3)


def test_slerp_follows_the_great_circle():
    path = slerp(A, B, jnp.linspace(0, 1, 5))
    angle = np.pi / 2 * np.linspace(0, 1, 5)
    expected = (
        np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) * np.linspace(3, 1, 5)[:, None]
    )
    np.testing.assert_allclose(path, expected, atol=1e-5)
    np.testing.assert_allclose(slerp(A, B, 0.25), expected[1], atol=1e-5)
    np.testing.assert_allclose(
        slerp(A, 2 * A, jnp.array([0.5])), [1.5 * A], atol=1e-5
    )  # no circle between parallel codes
    image = slerp(A.reshape(3, 1, 1), B.reshape(3, 1, 1), jnp.array([0.3, 0.6]))
    assert image.shape == (2, 3, 1, 1)


def test_temperature_scales_and_neighbours_are_the_nearest():
    np.testing.assert_allclose(with_temperature(A[None], 0.5), [[1.5, 0, 0]])
    codes = jnp.array([[0.0, 0, 0], [3, 1, 0], [3, 0, 0.5]])
    result = nearest_codes(jnp.stack([A, B]), codes, 2)
    np.testing.assert_array_equal(result.index, [[2, 1], [0, 1]])
    np.testing.assert_allclose(result.distance, [[0.5, 1], [1, 3]])
    with pytest.raises(ValueError, match="need temperature > 0, got 0"):
        with_temperature(A[None], 0)
    with pytest.raises(ValueError, match="need 1 <= k <= 3, the number of codes, got 4"):
        nearest_codes(A[None], codes, 4)


def test_outlier_scores_are_what_they_say():
    sde, nothing = VE(), jnp.zeros(2)
    latent = jnp.array([[50.0, 50.0, 50.0, 50.0], [100.0, 100.0, 100.0, 100.0]])
    result = LogLikelihood(jnp.array([-8.0, 4.0]), nothing, nothing, latent, jnp.zeros((), int))
    scores = outlier_scores(sde, result, jnp.array([-4.0, 0.0, -40.0]))
    np.testing.assert_allclose(scores.surprise, [2, -1])
    np.testing.assert_allclose(scores.atypical, [1, 2])
    np.testing.assert_allclose(scores.radius, [0, 1], atol=1e-6)
