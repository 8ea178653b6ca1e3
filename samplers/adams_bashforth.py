r"""Adams-Bashforth on the velocity of the probability flow, over the angle :math:`\vartheta = \arctan(\sigma / \alpha)`.

In the normalised state :math:`u = x / \sqrt{\alpha^2 + \sigma^2}` the flow is :math:`du/d\vartheta = v` with
:math:`v = \cos\vartheta\,\hat\epsilon - \sin\vartheta\,\hat x_0` (Salimans and Ho 2022, arXiv:2202.00512, appendix D), for every SDE
and without a singularity anywhere, so that a step may also start from pure noise or end at zero noise.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .dpm import check_steps
from .exponential import fractions, usable, weights
from .multistep import Multistep, Row
from .signal import signal_and_noise


class AdamsBashforth(Multistep):
    """Adams-Bashforth solver of order 1 to 4 on the velocity, for any grid."""

    order: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_steps(self.order, (1, 2, 3, 4))

    def plan(self, sde: SDE, ts: Array) -> Row:
        alpha, sigma = signal_and_noise(sde, ts)
        scale, angle = jnp.hypot(alpha, sigma), jnp.arctan2(sigma, alpha)
        integrals = jnp.diff(angle)[:, None] / jnp.arange(1, self.order + 1)[None]
        w = scale[1:, None] * weights(
            fractions(angle, self.order), integrals, usable(angle, self.order)
        )
        a, b = -jnp.sin(angle[:-1]), jnp.cos(angle[:-1])
        return Row(
            ts[:-1],
            scale[1:] / scale[:-1],
            a * w[:, 0],
            b * w[:, 0],
            a,
            b,
            w[:, 1:],
            w[:, :0],
            0 * a,
        )
