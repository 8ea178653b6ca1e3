r"""Learned uncertainty: loss weights that balance the noise levels by themselves.

It is eq. 21 of Karras et al. 2024, arXiv:2312.02696. A small function u of the noise level is
trained beside the network on

.. math:: e^{-u_t} \ell_t + u_t,

whose minimum in u is :math:`u_t = \log E\,\ell_t`, so that every level contributes a loss, and
about a gradient, of the same size. u is linear in fixed Fourier features of the half log-SNR
:math:`\log(\sigma / \alpha) / 4`; it is not used after training.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .arrays import at_least_float32
from .base import SDE

FEATURES = 64


def features(sde: SDE, t: Float[Array, " batch"]) -> Float[Array, "batch features"]:
    """Return the features of times `t`: a constant, then cosines.

    Their frequencies and phases come from a fixed seed.
    """
    t = at_least_float32(t)
    rng = np.random.default_rng(0)
    frequency = jnp.asarray(rng.normal(size=FEATURES - 1), t.dtype)
    phase = jnp.asarray(rng.uniform(size=FEATURES - 1), t.dtype)
    level = jnp.clip(-sde.log_snr(t) / 8, -3.0, 3.0)
    waves = jnp.sqrt(2.0) * jnp.cos(2 * jnp.pi * (frequency[None] * level[:, None] + phase[None]))
    return jnp.concatenate([jnp.ones_like(level)[:, None], waves], 1) / jnp.sqrt(FEATURES)


def uncertainty(
    weights: Float[Array, " features"], sde: SDE, t: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return u at times `t`.

    Args:
        weights: of the features; start from zeros, where the loss is unchanged.
        sde: the process.
        t: the times.
    """
    return jnp.sum(features(sde, t) * weights[None], 1)


def uncertainty_loss(
    loss: Float[Array, " batch"], u: Float[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return exp(-u) loss + u."""
    return jnp.exp(-u) * loss + u
