r"""Ancestral sampling: step along the Gaussian posterior of the forward transition (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

With the forward transition :math:`x_t = A x_s + G z`,

.. math:: x_s = A^{-1} \big(x_t + G^2 \nabla \log p_t(x_t)\big) + v z,

where v is the posterior's own :math:`G \sigma_s / \sigma_t` (score_sde's choice for VE) or the transition's G (its choice for VP).
The former is DDIM with eta = 1. In terms of the estimate, as computed here, the mean stays finite also where A = 0:
:math:`\alpha_s \hat x_0 + A \sigma_s^2 / \sigma_t\,\hat\epsilon`.
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, check_name

from .one_step import OneStep, Row, transitions

VARIANCES = {
    "posterior": lambda p: jnp.sqrt(p.variance) * p.sigma_s / p.sigma,
    "transition": lambda p: jnp.sqrt(p.variance),
}


class Ancestral(OneStep):
    """Ancestral (DDPM) sampler for any SDE; `variance` is "posterior" or "transition"."""

    variance: str = "posterior"

    def __check_init__(self):
        check_name("variance", self.variance, VARIANCES)

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, sde: SDE, ts: Array) -> Row:
        p = transitions(sde, ts)
        return Row(
            p.t,
            jnp.zeros_like(p.t),
            p.alpha_s,
            p.ratio * p.sigma_s**2 / p.sigma,
            VARIANCES[self.variance](p),
        )
