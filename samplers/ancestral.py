r"""Ancestral sampling: steps along the posterior of the forward transition.

Each step draws from the Gaussian posterior of the forward transition :math:`x_t = A x_s + G z`
(Ho et al. 2020, arXiv:2006.11239, algorithm 2),

.. math:: x_s = A^{-1} \big(x_t + G^2 \nabla \log p_t(x_t)\big) + v z,

where v is either the posterior's own :math:`G \sigma_s / \sigma_t`, which score_sde takes for VE,
or the transition's G, which it takes for VP. The former is DDIM with eta = 1. The code computes the
mean from the estimate, as :math:`\alpha_s \hat x_0 + A \sigma_s^2 / \sigma_t\,\hat\epsilon`, which
stays finite also where A = 0.
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, check_name

from .one_step import OneStep, OneStepCoefficients, transitions

# name -> transition -> standard deviation of the fresh noise
VARIANCES = {
    "posterior": lambda p: jnp.sqrt(p.variance) * p.sigma_s / p.sigma,
    "transition": lambda p: jnp.sqrt(p.variance),
}


class Ancestral(OneStep):
    """Ancestral (DDPM) sampler for any SDE; one network call a step.

    Attributes:
        variance: of the fresh noise, "posterior" or "transition".
    """

    variance: str = "posterior"

    def __check_init__(self):
        check_name("variance", self.variance, VARIANCES)

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; here it always does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> OneStepCoefficients:
        """Return the coefficients of arXiv:2006.11239, algorithm 2; see `Sampler.plan`."""
        p = transitions(sde, ts)
        return OneStepCoefficients(
            t=p.t,
            keep=jnp.zeros_like(p.t),
            data=p.alpha_s,
            noise=p.ratio * p.sigma_s**2 / p.sigma,
            noise_scale=VARIANCES[self.variance](p),
        )
