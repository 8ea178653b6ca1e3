r"""TDS, the twisted diffusion sampler (Wu et al. 2023, arXiv:2306.17775): exact in the limit of
many particles and small steps.

Particles walk down a chain of the prior, SA-Solver's of weak order 2, are moved towards the
measurement, and are weighted by what the move has cost,

.. math:: \log w = \log \psi_s(x_s) - \log \psi_t(x_t) + \log p(x_s \mid x_t)
    - \log q(x_s \mid x_t, y),

with the twist :math:`\psi` of `twist`. The means of the weights multiply to the evidence p(y). The
walk ends at a level where the chain still has width. From there clean data are drawn from
:math:`\mathcal{N}(D, C)` given y, exactly, which changes no weight: the last move cannot
degenerate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Key

from sde_lib import SDE, Denoise, Estimate, count_evaluations, in_float64
from sde_lib.checks import known

from ..base import draw_prior, fold, sample_keys
from ..checks import check_count, check_key, check_number, check_problem
from ..counted import Counted
from ..data_size import data_sd
from ..multistep import MultistepCoefficients
from ..particles import log_mean_weight, resample, systematic
from ..sa import SASolver
from ..walk import check_grid, check_plan
from .twist import Conditional, Twist, make_twist

LEAST_NOISE = 10.0  # over the data, at the start of a walk
_CHOICE, _POOLED = 0x7D50, 0x7D51  # folded into the key of a run


class TwistedSamples(NamedTuple):
    """What `twisted` returns; its samples are equally weighted and in random order."""

    x: Array  # (islands * particles, ...)
    log_evidence: Array  # () log p(y) in nats
    log_evidence_error: Array  # () its standard error, by the islands
    ess: Array  # (steps, islands) effective sample sizes over the number of particles
    nfe: Array  # () network evaluations of a particle


class TwistedPlan(NamedTuple):
    """The coefficients of every step, each (steps,)."""

    chain: MultistepCoefficients  # of the prior
    t_next: Array
    level_next: Array  # sigma / alpha at t_next
    scale: Array  # of the fresh noise, over alpha at t_next


class Particles(NamedTuple):
    """The particles at one time, (islands * particles, ...), islands behind one another."""

    x: Array
    estimate: Estimate  # of clean data and noise
    log_twist: Array  # (islands * particles,)
    memory: Any  # of the chain


class Weights(NamedTuple):
    """What the particles stand for."""

    log_weights: Array  # (islands, particles)
    log_evidence: Array  # (islands,) of the steps before the last resampling


def twisted(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    ts: ArrayLike,
    operator: Callable[[Array], Array],
    y: Array,
    std: ArrayLike,
    shape: tuple[int, ...],
    *,
    particles: int = 256,
    islands: int = 8,
    cov: npt.ArrayLike | None = None,
    threshold: float = 0.5,
    cond: Any = None,
) -> TwistedSamples:
    """Draw samples of the posterior of ONE measurement y = A(x) + noise, and return its evidence.

    The particles of an island are resampled when their effective sample size is low. Islands do not
    see each other before the end, so that they tell the standard error of the evidence.

    Args:
        key: of the run.
        denoise: the denoiser of the prior.
        sde: its process.
        ts: decreasing times (steps + 1,), from 1 down to a level well below the data, such as
            ``grids.log_snr(sde, 100)``. The chain of the prior has an error of second order
            in the step.
        operator: linear, maps one sample to its measurement.
        y: the measurement, of the shape that the operator gives.
        std: standard deviation of the noise, a number or of the shape of y.
        shape: of one sample.
        particles: in an island.
        islands: independent groups, at least 2.
        cov: of the data, by which particles are moved: one variance, one of each entry of a
            flattened sample, or a matrix. By default that of the denoiser's `sigma_data`. The
            nearer it is to the truth, the fewer particles are needed; any is correct.
        threshold: the effective sample size, over the number of particles, below which an island is
            resampled.
        cond: conditions of the denoiser for one sample, without a batch axis.

    Raises:
        ValueError: an operator that is not linear, a measurement that does not fit it, or a setting
            out of range.
    """
    check_key(key)
    check_problem(denoise, sde)
    check_count(2, islands=islands, particles=particles)
    check_number("need 0 <= threshold <= 1", lambda v: (v >= 0) & (v <= 1), threshold=threshold)
    sd = data_sd(denoise)
    twist = make_twist(operator, y, std, shape, sd**2 if cov is None else cov)
    grid = check_grid(sde, ts)
    start_level = _start_level(sde, grid, sd)
    plan = check_plan(_CHAIN, sde, in_float64(_plan, sde, grid))
    plan = jax.tree.map(lambda c: jnp.asarray(c, jnp.float32), plan)
    number = islands * particles
    x = draw_prior(key, sde, (number, *shape))
    repeated = jax.tree.map(lambda c: jnp.broadcast_to(c, (number, *jnp.shape(c))), cond)
    start_level = jnp.asarray(start_level, x.dtype)
    return _walk(key, Counted(denoise), twist, plan, start_level, x, repeated, islands, threshold)


_CHAIN = SASolver()


def _noise_level(sde: SDE, t: Array) -> Array:
    return sde.noise_level(t)


def _start_level(sde: SDE, grid: Any, sd: Any) -> Any:
    """Return the noise level at the start of the grid.

    Raises:
        ValueError: so little noise that a draw of the prior is no state of that time.
    """
    level = in_float64(_noise_level, sde, grid[0])
    if known(level, sd) and not level >= LEAST_NOISE * sd:
        raise ValueError(
            f"the grid starts at t = {grid[0]:g}, where the noise is {level / sd:.3g} times the "
            "data; start at t = 1, as grids.log_snr(sde, steps) does"
        )
    return level


def _plan(sde: SDE, ts: Array) -> TwistedPlan:
    """Return the coefficients of the chain."""
    chain = _CHAIN.plan(sde, ts)
    return TwistedPlan(
        chain=chain,
        t_next=ts[1:],
        level_next=sde.noise_level(ts[1:]),
        scale=chain.noise_scale / sde.marginal(ts[1:])[0],
    )


@eqx.filter_jit
def _walk(key, denoise, twist: Twist, plan, start_level, x, cond, islands: int, threshold):
    """Walk the particles `x` (islands * particles, ...) down and draw clean data from them."""
    number = len(x)
    keys = sample_keys(key, jnp.arange(number))
    steps = len(plan.scale)
    evaluations_per_step = 0

    def body(i, carry):
        nonlocal evaluations_per_step
        particles, weights, history = carry
        at = jax.tree.map(lambda c: c[i], plan)
        of_choice = jax.random.fold_in(jax.random.fold_in(key, _CHOICE), i)
        particles, weights, ess = _resampled(of_choice, particles, weights, threshold)
        conditional = twist.conditional(at.level_next)
        x, memory, log_ratio = _moved(fold(keys, i), conditional, particles, at)
        with count_evaluations() as tally:
            new = _looked_at(denoise, conditional, x, memory, at.t_next, cond)
        evaluations_per_step = tally.total
        change = new.log_twist - particles.log_twist + log_ratio
        grown = weights.log_weights + change.reshape(islands, -1)
        return new, weights._replace(log_weights=grown), history.at[i].set(ess)

    with count_evaluations() as tally:
        conditional = twist.conditional(start_level)
        particles = _looked_at(denoise, conditional, x, _CHAIN.init(x), plan.chain.t[0], cond)
    weights = Weights(
        log_weights=particles.log_twist.reshape(islands, -1), log_evidence=jnp.zeros(islands)
    )
    history = jnp.zeros((steps, islands))
    particles, weights, history = jax.lax.fori_loop(0, steps, body, (particles, weights, history))
    log_evidences = weights.log_evidence + jax.vmap(log_mean_weight)(weights.log_weights)
    conditional = twist.conditional(plan.level_next[-1])
    clean = conditional.draw(fold(keys, steps), particles.estimate.x0.reshape(number, -1))
    pooled = (weights.log_weights + weights.log_evidence[:, None]).reshape(-1)
    of_choice, of_order = jax.random.split(jax.random.fold_in(key, _POOLED))
    chosen = jax.random.permutation(of_order, systematic(of_choice, pooled))
    relative = jnp.exp(log_evidences - jnp.max(log_evidences))
    return TwistedSamples(
        x=clean[chosen].reshape(x.shape),
        log_evidence=log_mean_weight(log_evidences),
        log_evidence_error=jnp.std(relative, ddof=1) / jnp.mean(relative) / jnp.sqrt(islands),
        ess=history,
        nfe=jnp.asarray(tally.total + steps * evaluations_per_step),
    )


def _looked_at(
    denoise, conditional: Conditional, x: Array, memory: Any, t: Array, cond: Any
) -> Particles:
    """Return the particles at the states `x` with what the denoiser and the twist say of them."""
    estimate = denoise(x, t, cond)
    log_twist = conditional.log_density(estimate.x0.reshape(len(x), -1))
    return Particles(x=x, estimate=estimate, log_twist=log_twist, memory=memory)


def _moved(
    keys, conditional: Conditional, particles: Particles, at: TwistedPlan
) -> tuple[Array, Any, Array]:
    """Return states and memory at the next time, and log p - log q of the move.

    A step of the chain is a function of its fresh noise, to which it adds noise_scale z. Only z is
    drawn otherwise than the chain does.
    """
    quiet = at.chain._replace(noise_scale=jnp.zeros_like(at.chain.noise_scale))
    x, memory = _CHAIN.step(
        keys, lambda *_: particles.estimate, particles.x, quiet, particles.memory, None
    )
    z, log_ratio = conditional.move(at.scale).draw(
        keys, particles.estimate.x0.reshape(len(keys), -1)
    )
    return x + at.chain.noise_scale * z.reshape(x.shape), memory, log_ratio


def _resampled(
    key: Array, particles: Particles, weights: Weights, threshold: Any
) -> tuple[Particles, Weights, Array]:
    """Resample the islands that need it; return the effective sizes over the number, too."""
    islands, size = weights.log_weights.shape
    apart = jax.tree.map(lambda a: a.reshape(islands, size, *a.shape[1:]), particles)
    keys = jax.random.split(key, islands)
    each = jax.vmap(resample, (0, 0, 0, None))(keys, weights.log_weights, apart, threshold)
    together = jax.tree.map(lambda a: a.reshape(islands * size, *a.shape[2:]), each.particles)
    new = Weights(log_weights=each.log_weights, log_evidence=weights.log_evidence + each.log_mean)
    return together, new, each.ess / size
