r"""DEIS, exponential Adams-Bashforth solvers (Zhang and Chen 2023, arXiv:2204.13902, eq. 14 and 15), and linear multistep in sigma.

In :math:`y = x / \alpha` and :math:`\rho = \sigma / \alpha` the probability flow is :math:`dy/d\rho = \hat\epsilon`. The past noise
predictions are interpolated by a polynomial in a variable c, and this is integrated,

.. math:: y_s = y_t + \sum_j w_j \hat\epsilon_{n-j}, \qquad w_j = \int_{\rho_t}^{\rho_s} \ell_j(c(\rho))\,d\rho .
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE, check_name

from .dpm import check_steps
from .exponential import fractions, half_log_snr, moments, usable, weights
from .multistep import Multistep, Row, noise_rows
from .signal import signal_and_noise

_NODES, _GAUSS = np.polynomial.legendre.leggauss(32)


def in_log_rho(sde: SDE, ts: Array, m: int) -> tuple[Array, Array]:
    """Return c = lambda = -log rho, of which rho_s I_k(-h) are the moments."""
    lam = half_log_snr(sde, ts)
    return lam, jnp.exp(-lam[1:, None]) * moments(-jnp.diff(lam), m)


def in_rho(sde: SDE, ts: Array, m: int) -> tuple[Array, Array]:
    """Return c = rho and the moments: those of a polynomial."""
    alpha, sigma = signal_and_noise(sde, ts)
    rho = sigma / alpha
    return rho, jnp.diff(rho)[:, None] / jnp.arange(1, m + 1)[None]


def in_t(sde: SDE, ts: Array, m: int) -> tuple[Array, Array]:
    r"""Return c = t and, by quadrature, :math:`\int \theta^k d\rho = \rho_s - [k = 0] \rho_t - k \int \theta^{k-1} \rho\,d\theta`."""
    alpha, sigma = signal_and_noise(sde, ts)
    rho, k = sigma / alpha, jnp.arange(m)
    theta, gauss = jnp.asarray(0.5 * (1 + _NODES)), jnp.asarray(0.5 * _GAUSS)
    inner_alpha, inner_sigma = sde.marginal(ts[:-1, None] + jnp.diff(ts)[:, None] * theta[None])
    powers = k[:, None] * theta[None] ** jnp.maximum(k - 1, 0)[:, None]
    inner = jnp.sum((gauss[None] * inner_sigma / inner_alpha)[:, None] * powers[None], -1)
    return ts, rho[1:, None] - jnp.where(k[None] == 0, rho[:-1, None], 0.0) - inner


VARIABLES = {"log_rho": in_log_rho, "rho": in_rho, "t": in_t}


class DEIS(Multistep):
    """Exponential Adams-Bashforth solver of order 1 to 4 on the noise prediction; "t" is the paper's tAB, "rho" its rhoAB."""

    order: int = eqx.field(default=3, static=True)
    variable: str = eqx.field(default="log_rho", static=True)

    def __check_init__(self):
        check_steps(self.order, (1, 2, 3, 4))
        check_name("variable", self.variable, VARIABLES)

    def plan(self, sde: SDE, ts: Array) -> Row:
        c, integrals = VARIABLES[self.variable](sde, ts, self.order)
        return noise_rows(
            sde, ts, weights(fractions(c, self.order), integrals, usable(c, self.order))
        )


class LMS(Multistep):
    """Linear multistep solver in rho = sigma / alpha, DEIS's rhoAB: of order 4 as in k-diffusion's `sample_lms`."""

    order: int = eqx.field(default=4, static=True)

    def __check_init__(self):
        check_steps(self.order, (1, 2, 3, 4))

    def plan(self, sde: SDE, ts: Array) -> Row:
        return DEIS(self.order, "rho").plan(sde, ts)
