r"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2): second-order multistep on the data prediction.

With the half log-SNR :math:`\lambda = \log(\alpha/\sigma)` and :math:`h = \lambda_s - \lambda_t`, a step from t to s is

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1)\,
    \Big[\hat x_t + \frac{h}{2 h_{\text{prev}}} (\hat x_t - \hat x_{\text{prev}})\Big].
"""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .base import Sampler


class Row(NamedTuple):
    t: Array
    keep: Array  # sigma_s / sigma_t
    data: Array  # alpha_s (1 - exp(-h))
    slope: Array  # h / (2 h_prev); 0 on the first step, which is then DDIM


class DPMpp2M(Sampler):
    """Second-order multistep solver; one network call a step."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> Row:
        alpha, sigma = sde.marginal(ts)
        h = jnp.diff(0.5 * sde.log_snr(ts))
        slope = jnp.concatenate([jnp.zeros(1), h[1:] / (2 * h[:-1])])
        return Row(ts[:-1], sigma[1:] / sigma[:-1], -alpha[1:] * jnp.expm1(-h), slope)

    def init(self, x: Array) -> Array:
        return jnp.zeros_like(x)

    def step(self, keys, denoise, x, row, previous, cond):
        del keys
        x0 = denoise(x, row.t, cond).x0
        return row.keep * x + row.data * (x0 + row.slope * (x0 - previous)), x0
