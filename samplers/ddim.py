r"""DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16) for any linear SDE.

.. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v^2}\,\hat\epsilon + v z, \qquad v = \eta\, G\, \sigma_s / \sigma_t,

G being the standard deviation of the forward transition from s to t. With eta = 0 it is the exact solution of the probability flow for
a constant noise estimate, Euler's method in sigma / alpha on x / alpha; with eta = 1 it is ancestral sampling.
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_number, known_zero
from .one_step import OneStep, Row, transitions


class DDIM(OneStep):
    """DDIM: deterministic for eta = 0, ancestral for eta = 1, anything between."""

    eta: float = 0.0

    def __check_init__(self):
        check_number("need 0 <= eta <= 1", lambda v: (0 <= v) & (v <= 1), eta=self.eta)

    @property
    def stochastic(self) -> bool:
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> Row:
        p = transitions(sde, ts)
        spread = self.eta * jnp.sqrt(p.variance) * p.sigma_s / p.sigma
        # Both are 0 in a step to zero noise, where the slope of the root in a traced eta is infinite.
        rest = p.sigma_s**2 - spread**2
        noise = jnp.where(rest > 0, jnp.sqrt(jnp.where(rest > 0, rest, 1.0)), 0.0)
        return Row(p.t, jnp.zeros_like(p.t), p.alpha_s, noise, spread)
