"""Coefficients of exponential integrators against exact arithmetic and quadrature, for any step: also a tiny or an endless one."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from samplers.exponential import interpolation_weights, moments, past_nodes, phi, usable_nodes

Z = np.array(
    [
        -30.0,
        -5.0,
        -1.0 - 1e-9,
        -1.0 + 1e-9,
        -0.1,
        -1e-5,
        -1e-12,
        0.0,
        1e-9,
        1e-3,
        0.5,
        0.999,
        1.001,
        7.0,
        25.0,
    ]
)


def exact(k, z):
    """Return phi_k(z), the sum of z^j / (j + k)!, in rational arithmetic."""
    z, term, total, j = Fraction(z), Fraction(1, math.factorial(k)), Fraction(0), 0
    while abs(term) > Fraction(1, 10**40) or j < abs(z):
        total, j = total + term, j + 1
        term *= z / (j + k)
    return float(total)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_phi_is_exact_to_rounding_for_any_step(k):
    with jax.enable_x64(True):
        np.testing.assert_allclose(phi(k, Z), [exact(k, z) for z in Z], rtol=2e-14)


def test_phi_has_the_right_slope_where_its_two_forms_meet_and_at_zero():
    with jax.enable_x64(True):
        z = jnp.array([-1.2, -0.9, 0.0, 0.9, 1.2])
        slope = jax.vmap(jax.grad(lambda z: phi(3, z)))(z)
        np.testing.assert_allclose(slope, (phi(3, z + 1e-5) - phi(3, z - 1e-5)) / 2e-5, rtol=1e-8)


def test_moments_are_the_integrals_that_they_stand_for():
    with jax.enable_x64(True):
        z = np.array([-3.0, -0.2, 1e-8, 0.7, 4.0, 20.0])
        result = moments(jnp.asarray(z), 4)
    for i, zi in enumerate(z):
        for k in range(4):
            integral = quad(
                lambda v, z=zi, k=k: z * np.exp(-z * (1 - v)) * v**k,
                0,
                1,
                epsabs=1e-13,
                epsrel=1e-13,
            )[0]
            np.testing.assert_allclose(result[i, k], integral, rtol=1e-11)


def test_a_step_to_zero_noise_has_moments_of_one():
    np.testing.assert_array_equal(moments(jnp.array([jnp.inf]), 3), [[1, 1, 1]])


def test_weights_integrate_polynomials_through_the_nodes_in_use():
    with jax.enable_x64(True):
        nodes = jnp.array([[0.0, -0.7, -1.9, -2.2]] * 4)
        integrals = jnp.array([[0.3, -0.2, 1.1, 0.4]] * 4)
        w = np.asarray(interpolation_weights(nodes, integrals, jnp.arange(1, 5)))
    for row, used in zip(w, range(1, 5), strict=True):
        np.testing.assert_array_equal(row[used:], 0)
        for k in range(used):
            np.testing.assert_allclose(row @ np.asarray(nodes[0]) ** k, integrals[0, k], rtol=1e-12)


def test_steps_use_as_much_of_the_past_as_there_is():
    values = jnp.array([0.0, 1.0, 3.0, 4.0, 5.0, jnp.inf])
    np.testing.assert_array_equal(usable_nodes(values, 3), [1, 2, 3, 3, 1])
    np.testing.assert_array_equal(
        usable_nodes(values.at[0].set(-jnp.inf), 3), [1, 1, 2, 3, 1]
    )  # pure noise at the start counts for nothing
    np.testing.assert_allclose(past_nodes(values, 3)[2], [0.0, -2.0, -3.0])
