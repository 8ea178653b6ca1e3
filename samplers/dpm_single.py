r"""DPM-Solver and DPM-Solver++ in single steps, and SEEDS, their kin on the reverse SDE.

Steps of order 1 to 3 (Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095,
algorithm 1) call the network at the fractions :math:`r_1, r_2` of the step in half log-SNR. On the
noise or the data prediction F,

.. math::
    x_1 &= \text{DDIM to } r_1, \qquad
    x_2 = \text{DDIM to } r_2 + c_2 \tfrac{r_2}{r_1} I_1(r_2 z) (F_1 - F_0), \\
    x_s &= \text{DDIM} + c\,\tfrac{1}{2 r_1} I_0(z) (F_1 - F_0) \quad\text{or}\quad
    \text{DDIM} + c\,\tfrac{1}{r_2} I_1(z) (F_2 - F_0),

with the moments of `exponential.py`: z = -h and :math:`c = \sigma` for the noise, z = h and
:math:`c = \alpha` for the data. On the reverse SDE (SEEDS, Gonzalez et al. 2023, arXiv:2305.14267,
algorithms 1 to 3) the integral of the noise doubles, z doubles for the data, and every point takes
its part of one Brownian path.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_one_of
from .exponential import half_log_snr, moments
from .runge_kutta import RungeKutta, RungeKuttaCoefficients
from .signal import signal_and_noise

# stages -> fractions of the step at which the network is called
CALLS = {1: (0.0,), 2: (0.0, 0.5), 3: (0.0, 1 / 3, 2 / 3)}


class CallPoints(NamedTuple):
    """Where the network is called, and the end of the step, as (steps, k + 1).

    Where lambda is infinite all calls are at the start.
    """

    t: Array
    lam: Array
    alpha: Array
    sigma: Array
    h: Array  # (steps,)


def call_points(sde: SDE, ts: Array, fractions: tuple[float, ...]) -> CallPoints:
    """Return the calls at the given fractions of each step in half log-SNR, and its end."""
    lam = half_log_snr(sde, ts)
    h = jnp.diff(lam)
    finite = jnp.isfinite(h)
    ahead = jnp.where(finite, h, 0.0)[:, None] * jnp.asarray(fractions)[None]
    between = sde.time(2 * (lam[:-1, None] + ahead)[:, 1:])
    start = jnp.broadcast_to(ts[:-1, None], between.shape)
    later = jnp.where(finite[:, None], between, start)
    t = jnp.concatenate([ts[:-1, None], later, ts[1:, None]], 1)
    alpha, sigma = signal_and_noise(sde, t)
    return CallPoints(t=t, lam=0.5 * sde.log_snr(t), alpha=alpha, sigma=sigma, h=h)


def single_step_plan(
    sde: SDE, ts: Array, stages: int, prediction: str, stochastic: bool = False
) -> RungeKuttaCoefficients:
    """Return the plan of one of these solvers.

    Args:
        sde: the process.
        ts: the grid (steps + 1,).
        stages: network calls a step, 1 to 3.
        prediction: "noise" or "data".
        stochastic: whether the solver is one of the reverse SDE.
    """
    steps = len(ts) - 1
    p = call_points(sde, ts, CALLS[stages])
    weights = _difference_weights(p, stages, prediction, stochastic)
    # The solution for constant predictions, less what F_0 loses to the differences F_j - F_0.
    data, noise = p.alpha[:, 1:], p.sigma[:, 1:]
    noise_scale = jnp.zeros((steps, stages, stages))
    if stochastic and prediction == "data":
        noise, noise_scale = _diffused_by_data(p)
    elif stochastic:
        noise, noise_scale = _diffused_by_noise(p)
    lost = jnp.sum(weights, -1)
    zeros, ones = jnp.zeros((steps, stages - 1)), jnp.ones((steps, stages - 1))
    of_data = prediction == "data"
    return RungeKuttaCoefficients(
        t=p.t[:, :-1],
        data=data - lost if of_data else data,
        noise=noise if of_data else noise - lost,
        prediction_data=ones if of_data else zeros,
        prediction_noise=zeros if of_data else ones,
        weights=weights,
        noise_scale=noise_scale,
    )


def _difference_weights(p: CallPoints, stages: int, prediction: str, stochastic: bool) -> Array:
    """Return the weights (steps, k, k - 1) of the differences F_j - F_0 at every target."""
    r = CALLS[stages]
    finite = jnp.isfinite(p.h)[:, None]
    to_target = jnp.where(finite, p.lam[:, 1:] - p.lam[:, :1], 1.0)  # from the start of the step
    doubled = 2.0 if stochastic else 1.0
    if prediction == "noise":
        scaled = doubled * p.sigma[:, 1:, None] * moments(-to_target, 2)
    else:
        scaled = p.alpha[:, 1:, None] * moments(doubled * to_target, 2)
    weights = jnp.zeros((len(p.h), stages, stages - 1))
    if stages == 2:
        weights = weights.at[:, 1, 0].set(scaled[:, 1, 0] / (2 * r[1]))
    if stages == 3:
        weights = weights.at[:, 1, 0].set(scaled[:, 1, 1] * r[2] / r[1])
        weights = weights.at[:, 2, 1].set(scaled[:, 2, 1] / r[2])
    return jnp.where(finite[..., None], weights, 0.0)


def _ahead(p: CallPoints) -> Array:
    """Return by how much half log-SNR each target lies after each point (steps, k, k + 1)."""
    ahead = p.lam[:, 1:, None] - p.lam[:, None, :]
    return jnp.where(jnp.isnan(ahead), 0.0, jnp.maximum(ahead, 0.0))


def _diffused_by_data(p: CallPoints) -> tuple[Array, Array]:
    """Return the coefficients of the noise on the reverse SDE, whose data prediction is known.

    Returns:
        The factor of the noise predicted at the start (steps, k), and that of the fresh noise of
        each interval (steps, k, k), at every target.
    """
    ahead = _ahead(p)
    variance = jnp.exp(-2 * ahead)
    noise = p.sigma[:, 1:] * jnp.exp(-ahead[:, :, 0])
    fresh = jnp.sqrt(variance[:, :, 1:] - variance[:, :, :-1])
    return noise, p.sigma[:, 1:, None] * fresh


def _diffused_by_noise(p: CallPoints) -> tuple[Array, Array]:
    """Return the coefficients of the noise on the reverse SDE, whose noise prediction is known.

    Returns:
        The factor of the noise predicted at the start (steps, k), and that of the fresh noise of
        each interval (steps, k, k), at every target.
    """
    ahead = _ahead(p)
    finite = jnp.isfinite(p.h)[:, None]
    variance = jnp.expm1(2 * jnp.where(finite[..., None], ahead, 0.0))
    growth = jnp.exp(jnp.where(finite, ahead[:, :, 0], 0.0))
    remaining = jnp.where(finite, 2 - growth, 0.0)
    fresh = jnp.sqrt(jnp.maximum(variance[:, :, :-1] - variance[:, :, 1:], 0.0))
    # A step from pure noise, or to none, forgets the noise that was there.
    forgetful = jnp.zeros_like(fresh).at[:, -1, -1].set(1.0)
    fresh = jnp.where(finite[..., None], fresh, forgetful)
    return p.sigma[:, 1:] * remaining, p.sigma[:, 1:, None] * fresh


class DPMSolver(RungeKutta):
    """Single-step DPM-Solver on the noise prediction.

    Attributes:
        order: 1 to 3, as many network calls a step.
    """

    order: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_one_of(tuple(CALLS), order=self.order)

    def plan(self, sde: SDE, ts: Array) -> RungeKuttaCoefficients:
        """Return the coefficients of arXiv:2206.00927, algorithms 1 and 2; see `Sampler.plan`."""
        return single_step_plan(sde, ts, self.order, "noise")


class DPMpp2S(RungeKutta):
    """DPM-Solver++(2S): two network calls a step."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> RungeKuttaCoefficients:
        """Return the coefficients of arXiv:2211.01095, algorithm 1; see `Sampler.plan`."""
        return single_step_plan(sde, ts, 2, "data")


class DPMpp3S(RungeKutta):
    """DPM-Solver++ in single steps of order 3: three network calls a step."""

    order: ClassVar[int] = 3

    def plan(self, sde: SDE, ts: Array) -> RungeKuttaCoefficients:
        """Return the coefficients on the data prediction; see `Sampler.plan`."""
        return single_step_plan(sde, ts, 3, "data")


class SEEDS(RungeKutta):
    """SEEDS-1 to -3 on the noise prediction of the reverse SDE.

    On coarse grids, with steps of more than about half a unit of half log-SNR, its samples lie far
    from the data; `DPMppSDE` has no such limit.

    Attributes:
        stages: 1 to 3, network calls a step.
    """

    stages: int = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_one_of(tuple(CALLS), stages=self.stages)

    @property
    def order(self) -> int:
        """The weak order, which a third stage does not raise."""
        return min(self.stages, 2)

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; here it always does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> RungeKuttaCoefficients:
        """Return the coefficients of arXiv:2305.14267, algorithms 1 to 3; see `Sampler.plan`."""
        return single_step_plan(sde, ts, self.stages, "noise", stochastic=True)


class DPMppSDE(RungeKutta):
    """SDE-DPM-Solver++(2S): SEEDS-2 on the data prediction; two network calls a step."""

    order: ClassVar[int] = 2

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; here it always does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> RungeKuttaCoefficients:
        """Return the coefficients on the data prediction; see `Sampler.plan`."""
        return single_step_plan(sde, ts, 2, "data", stochastic=True)
