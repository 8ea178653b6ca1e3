r"""Euler-Maruyama on the reverse process with noise level :math:`\eta` (Song et al. 2021, arXiv:2011.13456, appendix D).

.. math:: x_s = x_t + (s - t)\Big[\alpha' \hat x_0 + \sigma' \hat\epsilon
    + \frac{\eta^2 g^2}{2 \sigma} \hat\epsilon\Big] + \eta g \sqrt{t - s}\,z,

the bracket being :math:`f x - \tfrac12 (1 + \eta^2) g^2 \nabla \log p_t`, written so that it stays finite where f does not.
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_eta, known_zero
from .one_step import OneStep, Row


class EulerMaruyama(OneStep):
    """Euler-Maruyama: eta = 1 for the reverse SDE, 0 for the probability flow."""

    eta: float = 1.0

    def __check_init__(self):
        check_eta(eta=self.eta)

    @property
    def stochastic(self) -> bool:
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> Row:
        t, dt = ts[:-1], jnp.diff(ts)
        sigma, (_, g) = sde.marginal(t)[1], sde.coefficients(t)
        alpha_rate, sigma_rate = sde.marginal_rate(t)
        noise = sigma_rate + (0.5 * (self.eta * g) ** 2 / sigma if self.stochastic else 0.0)
        spread = self.eta * g * jnp.sqrt(-dt) if self.stochastic else 0 * dt
        return Row(t, jnp.ones_like(t), dt * alpha_rate, dt * noise, spread)
