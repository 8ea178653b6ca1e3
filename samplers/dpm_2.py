r"""DPM-2, the midpoint method in log sigma, k-diffusion's `sample_dpm_2` (after Karras et al. 2022, arXiv:2206.00364, appendix D.2).

In :math:`y = x / \alpha` and :math:`r = \sigma / \alpha`, where the flow is :math:`dy/dr = \hat\epsilon`, an Euler step to the geometric
mean m of the noise levels, then the whole step with the slope found there: :math:`y_s = y_t + (r_s - r_t)\,\hat\epsilon_m`.
"""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .dpm_single import points
from .runge_kutta import Row, RungeKutta


class DPM2(RungeKutta):
    """Second-order deterministic sampler; two network calls a step."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> Row:
        p = points(sde, ts, (0.0, 0.5))
        alpha, sigma = p.alpha[:, 1:], p.sigma[:, 1:]
        step = alpha[:, 1] * jnp.where(
            jnp.isfinite(p.h), sigma[:, 1] / alpha[:, 1] - p.sigma[:, 0] / p.alpha[:, 0], 0.0
        )
        lost, one = jnp.stack([jnp.zeros_like(step), step], 1), jnp.ones((len(step), 1))
        return Row(
            p.t[:, :-1],
            alpha,
            sigma - lost,
            0 * one,
            one,
            lost[..., None],
            jnp.zeros((len(step), 2, 2)),
        )
