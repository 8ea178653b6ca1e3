r"""Reverse diffusion: the reverse SDE discretised like the forward one.

With the forward transition :math:`x_t = A x_s + G z`, here the exact one of any SDE instead of one
of a discrete schedule, a step is (Song et al. 2021, arXiv:2011.13456, appendix E)

.. math:: x_s = (2 - A)\,x_t + G^2 \nabla \log p_t(x_t) + G z .
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .one_step import OneStep, OneStepCoefficients, transitions


class ReverseDiffusion(OneStep):
    """Reverse diffusion sampler; one network call a step.

    It diverges on coarse grids, where A is far from 1: use at least some hundred steps.
    """

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; here it always does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> OneStepCoefficients:
        """Return the coefficients of arXiv:2011.13456, appendix E; see `Sampler.plan`."""
        p = transitions(sde, ts)
        return OneStepCoefficients(
            t=p.t,
            keep=2 - p.ratio,
            data=jnp.zeros_like(p.t),
            noise=-p.variance / p.sigma,
            noise_scale=jnp.sqrt(p.variance),
        )
