r"""A draw near a clean sample, given a measurement by any operator, by Langevin steps.

The density is :math:`\mathcal{N}(x; m, v I)\,\mathcal{N}(y; A(x), s^2)`. Steps of size
:math:`\epsilon = r / (1 / v + 1 / s^2)` are stable for an operator of norm 1 and r < 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key


def langevin_draw(
    operator: Callable[[Array], Array],
    y: Array,
    key: Key[Array, ""],
    mean: Array,
    *,
    variance: Array | float,
    std: Array | float,
    steps: int,
    rate: Array | float,
) -> Array:
    """Return one sample after `steps` Langevin steps from `mean`.

    Args:
        operator: maps a sample to its measurement.
        y: the measurement.
        key: draws the noise.
        mean: the middle of the prior.
        variance: of each entry of the prior.
        std: standard deviation of the measurement's noise.
        steps: how many.
        rate: r above.
    """
    step_size = rate / (1 / variance + 1 / std**2)

    def energy(x: Array) -> Array:
        from_mean = jnp.sum((x - mean) ** 2) / variance
        misfit = jnp.sum((y - operator(x)) ** 2) / std**2
        return 0.5 * (from_mean + misfit)

    def langevin_step(i, x: Array) -> Array:
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
        return x - step_size * jax.grad(energy)(x) + jnp.sqrt(2 * step_size) * noise

    return jax.lax.fori_loop(0, steps, langevin_step, mean)
