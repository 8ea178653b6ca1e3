r"""Adams-Bashforth on the velocity of the probability flow.

It runs over the angle :math:`\vartheta = \arctan(\sigma / \alpha)`. In the normalised state
:math:`u = x / \sqrt{\alpha^2 + \sigma^2}` the flow is :math:`du/d\vartheta = v` with
:math:`v = \cos\vartheta\,\hat\epsilon - \sin\vartheta\,\hat x_0` (Salimans and Ho 2022,
arXiv:2202.00512, appendix D), for every SDE and without a singularity anywhere, so that a step may
also start from pure noise or end at zero noise.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_one_of
from .exponential import interpolation_weights, past_nodes, usable_nodes
from .multistep import Multistep, MultistepCoefficients
from .signal import signal_and_noise


class AdamsBashforth(Multistep):
    """Adams-Bashforth solver on the velocity, for any grid; one network call a step.

    Attributes:
        order: 1 to 4, as many predictions as a step interpolates through.
    """

    order: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_one_of((1, 2, 3, 4), order=self.order)

    @property
    def past_predictions(self) -> int:
        """The order minus 1."""
        return self.order - 1

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of a step in the angle; see `Sampler.plan`."""
        alpha, sigma = signal_and_noise(sde, ts)
        scale = jnp.hypot(alpha, sigma)
        angle = jnp.arctan2(sigma, alpha)
        integrals = jnp.diff(angle)[:, None] / jnp.arange(1, self.order + 1)[None]
        weights = scale[1:, None] * interpolation_weights(
            past_nodes(angle, self.order), integrals, usable_nodes(angle, self.order)
        )
        # The velocity as a combination of the expected data and noise.
        velocity_data, velocity_noise = -jnp.sin(angle[:-1]), jnp.cos(angle[:-1])
        return MultistepCoefficients(
            t=ts[:-1],
            keep=scale[1:] / scale[:-1],
            data=velocity_data * weights[:, 0],
            noise=velocity_noise * weights[:, 0],
            prediction_data=velocity_data,
            prediction_noise=velocity_noise,
            past=weights[:, 1:],
            correction=weights[:, :0],
            noise_scale=jnp.zeros_like(velocity_data),
        )
