"""Signal and noise at the times of a grid, for coefficients that divide by the signal."""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE
from sde_lib.base import NO_SIGNAL


def signal_and_noise(sde: SDE, ts: Array) -> tuple[Array, Array]:
    """Return `alpha` and `sigma`, elementwise; an alpha that is rounding alone, such as cos(pi / 2)
    = 6e-17, is 0.

    A coefficient divided by it is infinite then, and is refused, instead of 1e16 and silent
    nonsense.
    """
    alpha, sigma = sde.marginal(ts)
    return jnp.where(alpha > NO_SIGNAL, alpha, 0.0), sigma
