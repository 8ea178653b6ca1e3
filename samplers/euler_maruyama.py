r"""Euler-Maruyama on the reverse process with noise level :math:`\eta`.

The scheme (Song et al. 2021, arXiv:2011.13456, appendix D) takes from t to s

.. math:: x_s = x_t + (s - t)\Big[\alpha' \hat x_0 + \sigma' \hat\epsilon
    + \frac{\eta^2 g^2}{2 \sigma} \hat\epsilon\Big] + \eta g \sqrt{t - s}\,z,

the bracket being :math:`f x - \tfrac12 (1 + \eta^2) g^2 \nabla \log p_t`, written so that it stays
finite where f does not.
"""

import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_eta, known_zero
from .one_step import OneStep, OneStepCoefficients


class EulerMaruyama(OneStep):
    """Euler-Maruyama, a first-order sampler with one network call a step.

    Attributes:
        eta: noise level; 1 gives the reverse SDE, 0 the probability flow.
    """

    eta: float = 1.0

    def __check_init__(self):
        check_eta(eta=self.eta)

    @property
    def stochastic(self) -> bool:
        """Whether eta may be above 0; a traced eta counts as such."""
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> OneStepCoefficients:
        """Return the coefficients of arXiv:2011.13456, appendix D; see `Sampler.plan`."""
        t = ts[:-1]
        dt = jnp.diff(ts)
        _, sigma = sde.marginal(t)
        _, g = sde.coefficients(t)
        alpha_rate, sigma_rate = sde.marginal_rate(t)
        if self.stochastic:
            noise = sigma_rate + 0.5 * (self.eta * g) ** 2 / sigma
            noise_scale = self.eta * g * jnp.sqrt(-dt)
        else:
            noise = sigma_rate
            noise_scale = jnp.zeros_like(dt)
        return OneStepCoefficients(
            t=t,
            keep=jnp.ones_like(t),
            data=dt * alpha_rate,
            noise=dt * noise,
            noise_scale=noise_scale,
        )
