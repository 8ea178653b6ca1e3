r"""DPM-Solver and DPM-Solver++ in single steps (Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095, algorithm 1).

Steps of order 1 to 3 with calls at the fractions :math:`r_1, r_2` of the step in half log-SNR, on the noise or the data prediction F,

.. math::
    x_1 &= \text{DDIM to } r_1, \qquad x_2 = \text{DDIM to } r_2 + c_2 \tfrac{r_2}{r_1} I_1(r_2 z) (F_1 - F_0), \\
    x_s &= \text{DDIM} + c\,\tfrac{1}{2 r_1} I_0(z) (F_1 - F_0) \quad\text{or}\quad \text{DDIM} + c\,\tfrac{1}{r_2} I_1(z) (F_2 - F_0),

with the moments of `exponential.py`: z = -h and :math:`c = \sigma` for the noise, z = h and :math:`c = \alpha` for the data. On the
reverse SDE (SEEDS, Gonzalez et al. 2023, arXiv:2305.14267, algorithms 1 to 3) the integral of the noise doubles, z doubles for the data,
and every point takes its part of one Brownian path.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .dpm import check_steps
from .exponential import half_log_snr, moments
from .runge_kutta import Row, RungeKutta
from .signal import signal_and_noise

CALLS = {
    1: (0.0,),
    2: (0.0, 0.5),
    3: (0.0, 1 / 3, 2 / 3),
}  # fractions of the step at which the network is called, by order


class Points(NamedTuple):
    """Where the network is called, and the end of the step, as (steps, k + 1); where lambda is infinite all calls are at the start."""

    t: Array
    lam: Array
    alpha: Array
    sigma: Array
    h: Array  # (steps,)


def points(sde: SDE, ts: Array, fractions: tuple[float, ...]) -> Points:
    """Return the calls at the given fractions of each step in half log-SNR, and its end."""
    lam = half_log_snr(sde, ts)
    h = jnp.diff(lam)
    inner = jnp.where(jnp.isfinite(h), h, 0.0)[:, None] * jnp.asarray(fractions)[None]
    between = sde.time(2 * (lam[:-1, None] + inner)[:, 1:])
    start = jnp.broadcast_to(ts[:-1, None], between.shape)
    t = jnp.concatenate(
        [ts[:-1, None], jnp.where(jnp.isfinite(h)[:, None], between, start), ts[1:, None]], 1
    )
    alpha, sigma = signal_and_noise(sde, t)
    return Points(t, 0.5 * sde.log_snr(t), alpha, sigma, h)


def single_step(sde: SDE, ts: Array, order: int, prediction: str, stochastic: bool = False) -> Row:
    """Return the plan of one of these solvers; `prediction` is "noise" or "data"."""
    r, k, steps = CALLS[order], order, len(ts) - 1
    p = points(sde, ts, r)
    finite = jnp.isfinite(p.h)[:, None]
    to = jnp.where(
        finite, p.lam[:, 1:] - p.lam[:, :1], 1.0
    )  # from the start of the step to each target
    times = 1.0 + stochastic
    if prediction == "noise":
        scaled = times * p.sigma[:, 1:, None] * moments(-to, 2)
    else:
        scaled = p.alpha[:, 1:, None] * moments(times * to, 2)
    w = jnp.zeros((steps, k, k - 1))
    if order == 2:
        w = w.at[:, 1, 0].set(scaled[:, 1, 0] / (2 * r[1]))
    if order == 3:
        w = w.at[:, 1, 0].set(scaled[:, 1, 1] * r[2] / r[1]).at[:, 2, 1].set(scaled[:, 2, 1] / r[2])
    w = jnp.where(finite[..., None], w, 0.0)
    # The solution for constant predictions, less what F_0 loses to the differences F_j - F_0.
    data, noise, spread = p.alpha[:, 1:], p.sigma[:, 1:], jnp.zeros((steps, k, k))
    if stochastic:
        noise, spread = diffused(p, prediction == "data")
    lost, one = jnp.sum(w, -1), jnp.ones((steps, k - 1))
    if prediction == "data":
        return Row(p.t[:, :-1], data - lost, noise, one, 0 * one, w, spread)
    return Row(p.t[:, :-1], data, noise - lost, 0 * one, one, w, spread)


def diffused(p: Points, by_data: bool) -> tuple[Array, Array]:
    """Return what is left of the noise predicted at the start, and what the new noise of each interval gives, at every target."""
    ahead = p.lam[:, 1:, None] - p.lam[:, None, :]  # from each point of the step to each target
    ahead = jnp.where(jnp.isnan(ahead), 0.0, jnp.maximum(ahead, 0.0))
    if by_data:  # the process forgets its state, x, faster
        left = jnp.exp(-ahead[:, :, 0])
        variance = jnp.exp(-2 * ahead)
        return p.sigma[:, 1:] * left, p.sigma[:, 1:, None] * jnp.sqrt(
            variance[:, :, 1:] - variance[:, :, :-1]
        )
    finite = jnp.isfinite(p.h)[:, None]
    variance = jnp.expm1(2 * jnp.where(finite[..., None], ahead, 0.0))
    growth = jnp.where(finite, 2 - jnp.exp(jnp.where(finite, ahead[:, :, 0], 0.0)), 0.0)
    spread = jnp.sqrt(jnp.maximum(variance[:, :, :-1] - variance[:, :, 1:], 0.0))
    forgotten = jnp.zeros_like(spread).at[:, -1, -1].set(1.0)  # a step from pure noise, or to none
    return p.sigma[:, 1:] * growth, p.sigma[:, 1:, None] * jnp.where(
        finite[..., None], spread, forgotten
    )


class DPMSolver(RungeKutta):
    """DPM-Solver of order 1 to 3, as many network calls a step."""

    order: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_steps(self.order, tuple(CALLS))

    def plan(self, sde: SDE, ts: Array) -> Row:
        return single_step(sde, ts, self.order, "noise")


class DPMpp2S(RungeKutta):
    """DPM-Solver++(2S): two network calls a step."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> Row:
        return single_step(sde, ts, 2, "data")


class DPMpp3S(RungeKutta):
    """DPM-Solver++ in single steps of order 3: three network calls a step."""

    order: ClassVar[int] = 3

    def plan(self, sde: SDE, ts: Array) -> Row:
        return single_step(sde, ts, 3, "data")


class SEEDS(RungeKutta):
    """SEEDS-1 to -3 on the noise prediction of the reverse SDE, as many network calls a step.

    On coarse grids, with steps of more than about half a unit of half log-SNR, it leaves the data far behind; `DPMppSDE` does not.
    """

    stages: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_steps(self.stages, tuple(CALLS))

    @property
    def order(self) -> int:
        return min(self.stages, 2)

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, sde: SDE, ts: Array) -> Row:
        return single_step(sde, ts, self.stages, "noise", stochastic=True)


class DPMppSDE(RungeKutta):
    """SDE-DPM-Solver++(2S): SEEDS-2 on the data prediction; two network calls a step."""

    order: ClassVar[int] = 2

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, sde: SDE, ts: Array) -> Row:
        return single_step(sde, ts, 2, "data", stochastic=True)
