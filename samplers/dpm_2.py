r"""DPM-2, the midpoint method in log sigma, as k-diffusion's `sample_dpm_2`.

It follows Karras et al. 2022, arXiv:2206.00364, appendix D.2. In :math:`y = x / \alpha` and
:math:`r = \sigma / \alpha` the flow is :math:`dy/dr = \hat\epsilon`. A step takes an Euler step to
the geometric mean m of its noise levels, then the whole step with the slope found there:
:math:`y_s = y_t + (r_s - r_t)\,\hat\epsilon_m`.
"""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .dpm_single import call_points
from .runge_kutta import RungeKutta, RungeKuttaCoefficients


class DPM2(RungeKutta):
    """Second-order deterministic sampler; two network calls a step."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> RungeKuttaCoefficients:
        """Return the coefficients of a midpoint step; see `Sampler.plan`."""
        p = call_points(sde, ts, (0.0, 0.5))
        alpha, sigma = p.alpha[:, 1:], p.sigma[:, 1:]
        change = sigma[:, 1] / alpha[:, 1] - p.sigma[:, 0] / p.alpha[:, 0]
        # Of the noise at the midpoint, which takes the place of that at the start.
        weight = alpha[:, 1] * jnp.where(jnp.isfinite(p.h), change, 0.0)
        weights = jnp.stack([jnp.zeros_like(weight), weight], 1)
        return RungeKuttaCoefficients(
            t=p.t[:, :-1],
            data=alpha,
            noise=sigma - weights,
            prediction_data=jnp.zeros((len(weight), 1)),
            prediction_noise=jnp.ones((len(weight), 1)),
            weights=weights[..., None],
            noise_scale=jnp.zeros((len(weight), 2, 2)),
        )
