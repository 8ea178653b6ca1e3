r"""Exact moves towards a linear measurement, for one sample or a batch.

With :math:`x \sim \mathcal{N}(m, v I)` and :math:`y = A x + s\,z`, a draw of x given y is a draw
from the joint law, corrected by its misfit (Matheron's rule),

.. math:: x = m' + v A^T (s^2 I + v A A^T)^{-1} (y' - A m'), \qquad
    m' = m + \sqrt{v}\,z_1, \quad y' = y - s\,z_2 .
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from sde_lib.inverse.measurement import Measurement
from sde_lib.inverse.tangent import Tangent

ITERATIONS = 50  # of the conjugate gradients, at most; they call no network
TOLERANCE = 1e-5  # of the conjugate gradients, relative to the misfit


def per_sample(operator: Callable[[Array], Array], cond: Measurement, fn: Callable) -> Callable:
    """Return `fn(operator, y, ...)` mapped over the samples of a batch.

    Args:
        operator: that of the method, which one in the measurement replaces.
        cond: the measurements.
        fn: takes the operator and the measurement of a sample, then what is mapped with them.
    """

    def mapped(*arguments):
        def one(measurement, *arguments):
            return fn(measurement.operator_or(operator), measurement.y, *arguments)

        return jax.vmap(one)(cond._replace(cond=None), *arguments)

    return mapped


def least_change(
    operator: Callable[[Array], Array], y: Array, x: Array, ratio: Array | float
) -> Array:
    """Return `x` moved to its most likely place given y = A x + noise, for one sample.

    Args:
        operator: maps a sample to its measurement; its tangent at `x` is taken.
        y: the measurement.
        x: the sample.
        ratio: the variance of the noise over that of the sample; 0 for the nearest x with A x = y.
    """
    tangent = Tangent.at(operator, x, y)
    weights = tangent.solve(ratio, lambda v: v, ITERATIONS, TOLERANCE)
    return x + tangent.adjoint(weights).astype(x.dtype)


def conditional_draw(
    operator: Callable[[Array], Array],
    y: Array,
    key: Key[Array, ""],
    mean: Array,
    variance: Array | float,
    std: Array | float,
) -> Array:
    """Draw one sample of N(mean, variance I) given its measurement; exact if A is linear.

    Args:
        operator: maps a sample to its measurement.
        y: the measurement.
        key: draws the noise.
        mean: of the sample.
        variance: of each of its entries.
        std: standard deviation of the measurement's noise.
    """
    of_sample, of_measurement = jax.random.split(key)
    x = mean + jnp.sqrt(variance) * jax.random.normal(of_sample, mean.shape, mean.dtype)
    noisy = y - std * jax.random.normal(of_measurement, y.shape, y.dtype)
    return least_change(operator, noisy, x, std**2 / variance)
