"""Signal and noise at the times of a grid, for coefficients that divide by the signal."""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE
from sde_lib.base import NO_SIGNAL


def signal_and_noise(sde: SDE, ts: Array) -> tuple[Array, Array]:
    """Return `alpha` and `sigma`, elementwise; an alpha that is rounding alone is 0.

    Rounding leaves cos(pi / 2) = 6e-17, for example. A coefficient divided by 0 is infinite and is
    refused; divided by the rounding it would be 1e16 and the walk silent nonsense.
    """
    alpha, sigma = sde.marginal(jnp.asarray(ts))
    return jnp.where(alpha > NO_SIGNAL, alpha, 0.0), sigma
