r"""Reverse diffusion: the reverse SDE discretised like the forward one (Song et al. 2021, arXiv:2011.13456, appendix E).

With the forward transition :math:`x_t = A x_s + G z`, here the exact one of any SDE instead of a discrete table,

.. math:: x_s = (2 - A)\,x_t + G^2 \nabla \log p_t(x_t) + G z .
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .one_step import OneStep, Row, transitions


class ReverseDiffusion(OneStep):
    """Reverse diffusion sampler. Diverges on coarse grids, where A leaves the neighbourhood of 1: use at least some hundred steps."""

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, sde: SDE, ts: Array) -> Row:
        p = transitions(sde, ts)
        return Row(
            p.t, 2 - p.ratio, jnp.zeros_like(p.t), -p.variance / p.sigma, jnp.sqrt(p.variance)
        )
