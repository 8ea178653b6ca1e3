"""Sums that are fast on CPU."""

import jax
import jax.numpy as jnp
from jax import Array

FLOAT32 = 8, 23  # bits of exponent and mantissa


def summable(x: Array) -> Array:
    """Return x, of which no bit changes, and whose gradient is computed once and summed fast.

    XLA's CPU backend gives a sum of a product to a slow loop, together with everything that leads to the product, once for each sum that
    needs it; what passes through a change of precision it computes once and sums in a library, two to ten times faster.
    """
    return jax.lax.reduce_precision(x, *FLOAT32) if x.dtype == jnp.float32 else x
