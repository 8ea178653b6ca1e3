r"""DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16) for any linear SDE.

.. math::
    x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v^2}\,\hat\epsilon + v z, \qquad
    v = \eta\, G\, \sigma_s / \sigma_t,

G being the standard deviation of the forward transition from s to t. With eta = 0 this is the exact
solution of the probability flow for a constant noise estimate, which is Euler's method in
sigma / alpha on x / alpha. With eta = 1 it is ancestral sampling.
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_number, known_zero
from .one_step import OneStep, OneStepCoefficients, transitions


class DDIM(OneStep):
    """DDIM, a first-order sampler with one network call a step.

    Attributes:
        eta: from 0, the deterministic probability flow, to 1, ancestral sampling.
    """

    eta: float = 0.0

    def __check_init__(self):
        check_number("need 0 <= eta <= 1", lambda v: (0 <= v) & (v <= 1), eta=self.eta)

    @property
    def stochastic(self) -> bool:
        """Whether eta may be above 0; a traced eta counts as such."""
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> OneStepCoefficients:
        """Return the coefficients of arXiv:2010.02502, eq. 12; see `Sampler.plan`."""
        p = transitions(sde, ts)
        noise_scale = self.eta * jnp.sqrt(p.variance) * p.sigma_s / p.sigma
        # Both are 0 in a step to zero noise, where the slope of the root in a traced eta is
        # infinite.
        rest = p.sigma_s**2 - noise_scale**2
        noise = jnp.where(rest > 0, jnp.sqrt(jnp.where(rest > 0, rest, 1.0)), 0.0)
        return OneStepCoefficients(
            t=p.t,
            keep=jnp.zeros_like(p.t),
            data=p.alpha_s,
            noise=noise,
            noise_scale=noise_scale,
        )
