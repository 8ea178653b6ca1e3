r"""What a network predicts: its output F estimates :math:`a x_0 + b \epsilon`.

Each row of `PREDICTIONS` gives (a, b). With :math:`\alpha, \sigma` the marginal at t, :math:`s` the
standard deviation of the data and :math:`h = \sqrt{\sigma^2 + \alpha^2 s^2}` that of :math:`x_t`.
`Estimate.solve` turns F back into clean data and noise.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .base import SDE
from .estimate import Number

Combination = tuple[Number, Number]

# Where alpha or sigma is 0, quotients take their limits with this in its place; below it float32
# has no signal beside noise of size 1.
FLOOR = 1e-8
# Quotients and rates are taken no earlier: the rate of sigma = sqrt(t) is infinite at t = 0.
EARLIEST = 1e-12


def rates(sde: SDE, t: Array) -> tuple[Array, Array]:
    """Return the rates of alpha and sigma at `t`, elementwise and finite at t = 0 too."""
    return sde.marginal_rate(jnp.maximum(t, EARLIEST))


def floored_marginal(sde: SDE, t: Array) -> tuple[Array, Array]:
    """Return alpha and sigma at `t`, elementwise, neither below `FLOOR`.

    With them every quotient has its limit.
    """
    alpha, sigma = sde.marginal(jnp.maximum(t, EARLIEST))
    return jnp.maximum(alpha, FLOOR), jnp.maximum(sigma, FLOOR)


def _edm(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    alpha, sigma = sde.marginal(t)
    h = jnp.hypot(sigma, alpha * sd)
    return sigma / (sd * h), -alpha * sd / h


def _v(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    alpha, sigma = sde.marginal(t)
    length = jnp.hypot(alpha, sigma)
    return -sigma / length, alpha / length


def _x0(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    return 1.0, 0.0


def _noise(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    return 0.0, 1.0


def _score(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    return 0.0, -1 / floored_marginal(sde, t)[1]


def _unit_score(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    return 0.0, -2 / floored_marginal(sde, t)[1]


def _velocity(sde: SDE, t: Array, sd: ArrayLike) -> Combination:
    return rates(sde, t)


# name -> (sde, t, sd) -> (a, b), the combination a x0 + b noise that the network predicts.
PREDICTIONS: dict[str, Callable[[SDE, Array, ArrayLike], Combination]] = {
    "edm": _edm,  # = -v on data scaled to unit variance (Karras et al. 2022, arXiv:2206.00364)
    "v": _v,  # normalised, so bounded for VE too (Salimans and Ho 2022, arXiv:2202.00512)
    "x0": _x0,
    "noise": _noise,
    "score": _score,
    "unit_score": _unit_score,  # the score of (x + 1) / 2, whose noise is half as large
    "velocity": _velocity,  # flow matching (Lipman et al. 2023, arXiv:2210.02747)
}
