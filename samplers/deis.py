r"""DEIS, exponential Adams-Bashforth solvers, and linear multistep solvers in sigma.

In :math:`y = x / \alpha` and :math:`\rho = \sigma / \alpha` the probability flow is
:math:`dy/d\rho = \hat\epsilon`. DEIS (Zhang and Chen 2023, arXiv:2204.13902, eq. 14 and 15)
interpolates past noise predictions by a polynomial in a variable c and integrates it,

.. math::
    y_s = y_t + \sum_j w_j \hat\epsilon_{n-j}, \qquad
    w_j = \int_{\rho_t}^{\rho_s} \ell_j(c(\rho))\,d\rho .
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE, check_name

from .checks import check_one_of
from .exponential import half_log_snr, interpolation_weights, moments, past_nodes, usable_nodes
from .multistep import Multistep, MultistepCoefficients, noise_prediction_plan
from .signal import signal_and_noise

_NODES, _GAUSS = np.polynomial.legendre.leggauss(32)


class Interpolation(NamedTuple):
    """What a polynomial in the variable c needs."""

    c: Array  # (steps + 1,) the variable at the times of the grid
    moments: Array  # (steps, m) the integrals of theta^k over rho, theta being the part of the step


def in_log_rho(sde: SDE, ts: Array, m: int) -> Interpolation:
    """Return c = lambda = -log rho, whose moments are rho_s I_k(-h)."""
    lam = half_log_snr(sde, ts)
    return Interpolation(c=lam, moments=jnp.exp(-lam[1:, None]) * moments(-jnp.diff(lam), m))


def in_rho(sde: SDE, ts: Array, m: int) -> Interpolation:
    """Return c = rho, whose moments are those of a polynomial."""
    alpha, sigma = signal_and_noise(sde, ts)
    rho = sigma / alpha
    return Interpolation(c=rho, moments=jnp.diff(rho)[:, None] / jnp.arange(1, m + 1)[None])


def in_t(sde: SDE, ts: Array, m: int) -> Interpolation:
    r"""Return c = t, whose moments come by Gauss-Legendre quadrature with 32 nodes,

    .. math:: \int \theta^k d\rho
        = \rho_s - [k = 0] \rho_t - k \int \theta^{k-1} \rho\,d\theta .
    """
    alpha, sigma = signal_and_noise(sde, ts)
    rho = sigma / alpha
    k = jnp.arange(m)
    theta, gauss = jnp.asarray(0.5 * (1 + _NODES)), jnp.asarray(0.5 * _GAUSS)
    inner_alpha, inner_sigma = sde.marginal(ts[:-1, None] + jnp.diff(ts)[:, None] * theta[None])
    powers = k[:, None] * theta[None] ** jnp.maximum(k - 1, 0)[:, None]
    inner = jnp.sum((gauss[None] * inner_sigma / inner_alpha)[:, None] * powers[None], -1)
    start = jnp.where(k[None] == 0, rho[:-1, None], 0.0)
    return Interpolation(c=ts, moments=rho[1:, None] - start - inner)


# name -> (sde, ts, m) -> Interpolation
VARIABLES = {"log_rho": in_log_rho, "rho": in_rho, "t": in_t}


class DEIS(Multistep):
    """Exponential Adams-Bashforth solver on the noise prediction; one network call a step.

    Attributes:
        order: 1 to 4, as many predictions as a step interpolates through.
        variable: in which the polynomial is; "t" gives the paper's tAB-DEIS, "rho" its rhoAB-DEIS.
    """

    order: int = eqx.field(default=3, static=True)
    variable: str = eqx.field(default="log_rho", static=True)

    def __check_init__(self):
        check_one_of((1, 2, 3, 4), order=self.order)
        check_name("variable", self.variable, VARIABLES)

    @property
    def past_predictions(self) -> int:
        """The order minus 1."""
        return self.order - 1

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of arXiv:2204.13902, eq. 14; see `Sampler.plan`."""
        c, integrals = VARIABLES[self.variable](sde, ts, self.order)
        nodes = past_nodes(c, self.order)
        used = usable_nodes(c, self.order)
        return noise_prediction_plan(sde, ts, interpolation_weights(nodes, integrals, used))


class LMS(Multistep):
    """Linear multistep solver in rho = sigma / alpha, DEIS's rhoAB.

    Attributes:
        order: 1 to 4; the default 4 is that of k-diffusion's `sample_lms`.
    """

    order: int = eqx.field(default=4, static=True)

    def __check_init__(self):
        check_one_of((1, 2, 3, 4), order=self.order)

    @property
    def past_predictions(self) -> int:
        """The order minus 1."""
        return self.order - 1

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of `DEIS` in rho; see `Sampler.plan`."""
        return DEIS(order=self.order, variable="rho").plan(sde, ts)
