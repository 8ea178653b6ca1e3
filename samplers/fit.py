r"""Fitting a time grid, or a whole solver, to one denoiser and one budget.

The probability flow carries a few dozen noises to data accurately. Gradient descent through the
walk seeks the numbers that bring the same noises to the same ends in a few steps. The loss is the
mean of :math:`\log(\text{distance}^2 + \epsilon^2)`: it counts factors, so that the few noises
whose end lies in another mode do not drown the others. Half the noises are held out. What is
returned was best on them, and fitting stops when they no longer gain at any rate. Noise levels are
a softmax of increments of log(sigma / alpha), decreasing by construction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Real

from sde_lib import SDE, Denoise

from . import grids
from .base import Sampler
from .data_size import data_sd, start_time
from .descent import Distance, descend
from .few_steps import FewSteps
from .ode import probability_flow
from .walk import sample


class Fit(NamedTuple):
    """What was learned, and how well it does on held-out noises."""

    result: Any  # times (steps + 1,) or a FewSteps
    history: np.ndarray  # median distances: at the start, then after each chunk of updates

    @property
    def distance(self) -> float:
        """The median distance of the held-out noises from the accurate ends."""
        return float(self.history.min())


def rms(x: Array, target: Array) -> Float[Array, " batch"]:
    """Return the root mean square over the dimensions of each sample's distance to its target."""
    return jnp.sqrt(jnp.mean((x - target) ** 2, axis=tuple(range(1, x.ndim))) + 1e-20)


def fit_grid(
    sampler: Sampler,
    denoise: Denoise,
    sde: SDE,
    x: Real[Array, "batch ..."],
    steps: grids.Count,
    *,
    end: float = 1e-3,
    denoise_last: bool = False,
    cond: Any = None,
    target: Array | None = None,
    distance: Distance = rms,
    updates: grids.Count = 2000,
    rate: float = 0.03,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Learn the times at which a sampler brings noises closest to the accurate ends.

    Args:
        sampler: a deterministic sampler.
        steps: how many steps it takes.
        end: the last time.
        denoise_last: whether the walk ends with a denoising, as in `sample`.
        denoise, sde, x, cond, target, distance, updates, rate, progress: as in `fit_solver`.

    Returns:
        Fit whose `result` are times (steps + 1,) down to `end`, for `sample` with the same
        `denoise_last`. They start at t = 1 or, if the process leaves hardly any signal there, where
        `fit_solver` starts.

    Raises:
        ValueError: a stochastic sampler, or what `fit_solver` refuses.
    """
    steps = grids.whole_number("steps", steps, 1)
    updates = grids.whole_number("updates", updates, 1)
    x = _noises(x, rate)
    sd = data_sd(denoise)
    start = start_time(sde, sd)
    if sampler.stochastic:
        raise ValueError(
            "fitting needs a deterministic sampler, as the ends of the noises are compared; "
            f"{sampler!r} draws noise"
        )
    first, last = _log_levels_at(sde, start, end)

    def times(numbers):
        inner = sde.time(-2 * _log_levels(numbers["increments"], first, last))[1:-1]
        return jnp.concatenate([jnp.full(1, start), inner, jnp.full(1, end)])

    def walk(numbers, x, cond):
        return sample(
            jax.random.key(0),
            sampler,
            denoise,
            sde,
            times(numbers),
            x,
            cond=cond,
            denoise_last=denoise_last,
        ).x

    if target is None:
        target = _accurate_ends(denoise, sde, x, start, None if denoise_last else end, cond)
    starts = [
        {"increments": _increments(levels)} for levels in _start_levels(sde, steps, start, end, sd)
    ]
    numbers, history = descend(walk, starts, x, target, cond, distance, updates, rate, progress)
    ts = np.asarray(times(numbers), np.float64)
    ts[0], ts[-1] = start, end
    return Fit(result=ts, history=history)


def fit_solver(
    denoise: Denoise,
    sde: SDE,
    x: Real[Array, "batch ..."],
    nfe: grids.Count,
    *,
    end: float | None = None,
    cond: Any = None,
    target: Array | None = None,
    distance: Distance = rms,
    updates: grids.Count = 4000,
    rate: float = 0.03,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Learn all numbers of the `FewSteps` solver that brings noises closest to the accurate ends.

    The size of the data is the denoiser's `sigma_data`, or 1. A process that leaves hardly any
    signal at t = 1 is started at a noise level of 200, or of 200 standard deviations if the data
    are larger than 1.

    Args:
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: noises of the prior at t = 1 (batch, ...), some 128 of them; half are held out.
        nfe: network evaluations of the solver.
        end: time to arrive at; None ends with clean data, as a final denoising does, without an
            evaluation for it.
        cond: a pytree of conditions with leading axis `batch`.
        target: where the noises should arrive (batch, ...); by default where the adaptive
            probability flow takes them.
        distance: (ends, target) -> (batch,), in pixels or between features of them.
        updates: of Adam, from the best of several published grids.
        rate: of learning, finite and above 0.
        progress: called with the number of updates made and their total.

    Returns:
        Fit whose `result` is a FewSteps.

    Raises:
        ValueError: fewer than two noises, less than one evaluation or update, a rate that is not
            above 0, traced values, or a denoiser whose walks are not finite.
    """
    nfe = grids.whole_number("nfe", nfe, 1)
    updates = grids.whole_number("updates", updates, 1)
    sd = data_sd(denoise)
    clean = end is None
    x = _noises(x, rate)
    start = start_time(sde, sd)
    stop = _time_of(sde, 3 * sd / nfe**2) if clean else end  # as in `recommended`
    first, last = _log_levels_at(sde, start, stop)

    def solver(numbers):
        log_levels = _log_levels(numbers["increments"], first, numbers["last"] if clean else last)
        levels = jnp.exp(log_levels)
        network_levels = levels[:nfe] * jnp.exp(numbers["shift"])
        if clean:
            levels = jnp.append(levels[:nfe], 0.0)
        free = jnp.tril(numbers["weights"], -1)
        return FewSteps(
            noise_levels=levels,
            network_levels=network_levels,
            weights=free + jnp.diag(1 - jnp.sum(free, 1)),
        )

    def walk(numbers, x, cond):
        return solver(numbers)(denoise, sde, x, cond=cond).x

    if target is None:
        target = _accurate_ends(denoise, sde, x, start, end, cond)
    starts = []
    for levels in _start_levels(sde, nfe, start, stop, sd):
        numbers = {
            "increments": _increments(levels),
            "shift": jnp.zeros(nfe),
            "weights": _second_order(levels[: nfe + 1]),
        }
        starts.append(numbers | ({"last": jnp.asarray(last)} if clean else {}))
    numbers, history = descend(walk, starts, x, target, cond, distance, updates, rate, progress)
    learned = jax.tree.map(lambda a: np.asarray(a, np.float64), solver(numbers))
    return Fit(result=learned, history=history)


def _noises(x: Array, rate: float) -> Array:
    """Return the noises as floating-point numbers of at least 32 bits, whose gradients are of use.

    Raises:
        ValueError: fewer than two noises, a rate that is not above 0, or one of them traced.
    """
    if isinstance(x, Tracer) or isinstance(rate, Tracer):
        raise ValueError(
            "fitting looks at its own progress, so it cannot be traced; "
            "call it outside of jax.jit, jax.vmap and jax.grad"
        )
    if np.ndim(x) < 2 or len(x) < 2:
        raise ValueError(
            "need at least two noises (batch, ...), half of them to hold out, "
            f"got shape {np.shape(x)}"
        )
    if np.ndim(rate) or not 0 < rate < np.inf:
        raise ValueError(f"need a finite rate > 0, such as 0.03, got {rate}")
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def _log_levels_at(sde, start, end):
    """Return log(sigma / alpha) at `start` and at `end`."""
    return tuple(-0.5 * sde.log_snr(jnp.asarray([start, end])))


def _time_of(sde, level):
    """Return the time of a noise level sigma / alpha, or t_min if that comes first."""
    return max(float(sde.t_min), float(sde.time_of_level(level)))


def _accurate_ends(denoise, sde, x, start, end, cond):
    """Return where the flow takes the noises (batch, ...), denoised if `end` is None."""
    tolerance = np.float32(1e-6)
    clean = end is None
    stop = _time_of(sde, 2e-3 * data_sd(denoise)) if clean else end
    return probability_flow(
        denoise,
        sde,
        x,
        start=start,
        end=stop,
        cond=cond,
        rtol=tolerance,
        atol=tolerance,
        denoise_last=clean,
    ).x


def _log_levels(increments, first, last):
    """Return the logs of decreasing levels (steps + 1,) from `first` to `last`, from (steps,)."""
    inner = jnp.cumsum(jax.nn.softmax(increments))[:-1]
    fractions = jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])
    return first + fractions * (last - first)


def _increments(levels):
    """Return the increments (steps,) of given levels (steps + 1,), the inverse of `_log_levels`."""
    return jnp.log(-jnp.diff(jnp.log(levels)))


def _start_levels(sde, steps, start, end, sd):
    """Return the levels (steps + 1,) of several grids."""
    times = [
        grids.log_snr(sde, steps, start, end),
        grids.karras(sde, steps, start, end),
        grids.centred(sde, steps, start, end, sd=sd),
        grids.centred(sde, steps, start, end, centre=1.0, warm_up=0.0, sd=sd),
    ]
    return [sde.noise_level(jnp.asarray(ts)) for ts in times]


def _second_order(levels):
    """Return the weights of DPM-Solver++(2M) beside the diagonal (steps, steps)."""
    h = -np.diff(np.log(np.asarray(levels, np.float64)))
    return jnp.asarray(np.diag(-h[1:] / (2 * h[:-1]), -1), jnp.float32)
