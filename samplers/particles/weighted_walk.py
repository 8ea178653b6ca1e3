r"""The walk of weighted particles: each point of the grid weights, resamples, then moves them.

In :math:`\ell = \log(\alpha / \sigma)`, with :math:`y = x / \alpha` and :math:`\rho = \sigma /
\alpha`, the particles follow

.. math:: dy = 2 \kappa (D - y)\,d\ell + \sqrt{2 \eta} \rho\,dB_\ell, \qquad
    d \log w = R\,d\ell .

With D constant over a step of length h the first has the solution

.. math::
    y_s = D + e^{-2 \kappa h} (y_t - D) + \rho_s
    \sqrt{\eta \frac{1 - e^{-(4 \kappa - 2) h}}{2 \kappa - 1}}\,z .

D is continued through its value one step before with the moment of SDE-DPM-Solver++(2M), see
`samplers.dpm`, which this is for 2 kappa = 1 + eta. The weight is integrated by the trapezoidal rule; its
values come from the walk's own evaluations. R falls off as :math:`\rho^2` next to clean data and as
:math:`\rho^{-2}` where no signal is left, so that a step with such an end, endless in
:math:`\ell`, adds half the value of R at the other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from sde_lib import SDE, count_evaluations

from ..base import fold, normal, sample_keys
from ..exponential import (
    half_log_snr,
    interpolation_weights,
    moments,
    past_nodes,
    stretched,
    usable_nodes,
)
from ..signal import signal_and_noise
from .resampling import effective_sample_size, log_mean_weight, resample

# (x, t, cond) -> D (particles, ...) and the rate R (particles,) of the log-weight
Field = Callable[[Array, Array, Any], tuple[Array, Array]]
_RESAMPLING = 0xFFFFFFFE  # folded into the key of the run; no sample has this number


class Particles(NamedTuple):
    """Particles with weights, and what was seen on the way."""

    x: Array  # (particles, ...) clean data
    log_weights: Float[Array, " particles"]  # to be normalised; all 0 at power 1
    log_normaliser: Float[Array, ""]  # log of the integral of the law over x
    ess: Float[Array, " points"]  # effective sample size before each resampling, and at the end
    nfe: Int[Array, ""]  # network evaluations spent on each particle


class State(NamedTuple):
    """What the walk hands from point to point."""

    x: Array  # (particles, ...)
    past: Array  # D one step before (particles, ...)
    log_weights: Array  # (particles,) since the last resampling
    log_normaliser: Array  # () of the weights until then


class StepCoefficients(NamedTuple):
    """The coefficients of each step, vectors (steps,)."""

    t: Array  # the time at which the network is called
    keep: Array  # of the state
    data: Array  # of D
    past: Array  # of D one step before
    noise_scale: Array  # of the fresh noise
    length: Array  # in l, for which R at t counts


class Plan(NamedTuple):
    """The coefficients of a walk."""

    steps: StepCoefficients
    last_time: Array  # () the end of the grid
    last_length: Array  # () in l, for which R at the end counts; 0 if the end is clean


def plan_of(sde: SDE, ts: Array, kappa: ArrayLike, eta: ArrayLike) -> Plan:
    """Return the coefficients on the grid `ts` (steps + 1,); it is called in float64.

    A grid that ends before clean data is followed by one more step, the denoising.
    """
    alpha, sigma = signal_and_noise(sde, ts)
    signal = alpha[:-1] > 0
    noisy = sigma[1:] > 0
    shrink = (alpha[:-1] * sigma[1:] / (sigma[:-1] * alpha[1:])) ** 2  # e^(-2 h)
    decay = shrink**kappa
    variance = eta * (1 - shrink ** (2 * kappa - 1)) / (2 * kappa - 1)
    weights = alpha[1:, None] * _data_weights(half_log_snr(sde, ts), kappa)
    finite = shrink > 0
    half = jnp.where(finite, -0.25 * jnp.log(jnp.where(finite, shrink, 1.0)), 0.5)
    after = jnp.where(signal, half, 0.0)  # of R at the start of each step
    before = jnp.where(noisy, half, 0.0)  # of R at its end
    return Plan(
        steps=StepCoefficients(
            t=ts[:-1],
            keep=jnp.where(signal, alpha[1:] * decay / jnp.where(signal, alpha[:-1], 1.0), 0.0),
            data=weights[:, 0],
            past=weights[:, 1],
            noise_scale=sigma[1:] * jnp.sqrt(variance),
            length=after + jnp.concatenate([jnp.zeros(1), before[:-1]]),
        ),
        last_time=ts[-1],
        last_length=before[-1] + jnp.where(noisy[-1], 0.5, 0.0),
    )


def _data_weights(lam: Array, kappa: ArrayLike) -> Array:
    """Return the weights of D and of D one step before (steps, 2), which add up to 1 - e^(-z)."""
    integrals = moments(stretched(jnp.diff(lam), 2 * kappa), 2)  # at z = 2 kappa h
    published = integrals.at[:, 1].set(integrals[:, 0] / 2)
    return interpolation_weights(past_nodes(lam, 2), published, usable_nodes(lam, 2))


def weighted_walk(
    key: Key[Array, ""],
    field: Field,
    plan: Plan,
    x: Array,
    log_weights: Array,
    cond: Any,
    threshold: ArrayLike,
) -> Particles:
    """Walk the particles, and denoise at the end unless the grid is known to end in clean data.

    Args:
        key: the key of the run.
        field: what moves and weights the particles.
        plan: the coefficients.
        x: the start (particles, ...).
        log_weights: of the start (particles,).
        cond: conditions with leading axis `particles`.
        threshold: below this part of their number as effective size particles are resampled.
    """
    last_step = isinstance(plan.last_length, Tracer) or bool(plan.last_length > 0)
    plan = jax.tree.map(lambda c: jnp.asarray(c, x.dtype), plan)
    start = State(
        x=x,
        past=jnp.zeros_like(x),
        log_weights=log_weights,
        log_normaliser=jnp.zeros((), x.dtype),
    )
    return _walk(key, field, plan, start, cond, jnp.asarray(threshold, x.dtype), last_step)


@eqx.filter_jit
def _walk(key, field, plan, start, cond, threshold, last_step) -> Particles:
    keys = sample_keys(key, jnp.arange(len(start.x)))
    resampling_key = jax.random.fold_in(key, np.uint32(_RESAMPLING))
    steps = len(plan.steps.t)
    evaluations = 0

    def step(state: State, numbered: tuple[Array, StepCoefficients]) -> tuple[State, Array]:
        nonlocal evaluations
        i, c = numbered
        with count_evaluations() as tally:
            x0, rate = field(state.x, c.t, cond)
        evaluations = tally.total
        log_weights = state.log_weights + c.length * rate
        particles = (state.x, x0, state.past)
        chosen = resample(jax.random.fold_in(resampling_key, i), log_weights, particles, threshold)
        x, x0, past = chosen.particles
        mean = c.keep * x + c.data * x0 + c.past * past
        state = State(
            x=mean + c.noise_scale * normal(fold(keys, i), x),
            past=x0,
            log_weights=chosen.log_weights,
            log_normaliser=state.log_normaliser + chosen.log_mean,
        )
        return state, chosen.ess

    state, sizes = jax.lax.scan(step, start, (jnp.arange(steps), plan.steps))
    x, log_weights = state.x, state.log_weights
    if last_step:
        x, rate = field(x, plan.last_time, cond)
        log_weights = log_weights + plan.last_length * rate
    return Particles(
        x=x,
        log_weights=log_weights,
        log_normaliser=state.log_normaliser + log_mean_weight(log_weights),
        ess=jnp.append(sizes, effective_sample_size(log_weights)),
        nfe=jnp.asarray(evaluations * (steps + last_step)),
    )
