r"""Fitting a time grid, or a whole solver, to one denoiser and one budget: gradient descent through the walk.

A few dozen noises are carried to data accurately by the probability flow; the numbers sought bring the same noises to the same ends in a
few steps. The loss is the mean of :math:`\log(\text{distance}^2 + \epsilon^2)`: it counts factors, so that the few noises whose end lies
in another mode do not drown the others. Half the noises are held out: what is returned was best on them, and fitting stops when they no
longer gain at any rate. Noise levels are a softmax of increments of log(sigma / alpha), decreasing by construction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Real

from sde_lib import SDE

from . import grids
from .base import Denoise, Sampler, sample
from .data_size import data_sd, start_time
from .few_steps import FewSteps
from .ode import probability_flow

Distance = Callable[[Array, Array], Float[Array, " batch"]]
_CHUNKS = 40  # looks at the held-out noises
_PATIENCE = 3  # of them without gain: back to the best, at a third of the rate


class Fit(NamedTuple):
    """What was found, and the median distance on held-out noises along the way: at the start, then after each chunk of updates."""

    found: Any  # times (steps + 1,) or a FewSteps
    history: np.ndarray

    @property
    def distance(self) -> float:
        """The median distance of the held-out noises from the accurate ends."""
        return float(self.history.min())


def rms(x: Array, target: Array) -> Float[Array, " batch"]:
    """Return the root mean square over the dimensions of each sample."""
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
    """Learn the times at which a deterministic `sampler` brings noises `x` closest to the accurate ends; see `fit_solver`.

    Returns:
        Fit whose `found` are times (steps + 1,) down to `end`, for `sample` with the same `denoise_last`. They start at t = 1 or, if the
        process leaves hardly any signal there, where `fit_solver` starts.
    """
    steps, updates = (
        grids.whole_number("steps", steps, 1),
        grids.whole_number("updates", updates, 1),
    )
    x, start = _noises(x, rate), start_time(sde, data_sd(denoise))
    if sampler.stochastic:
        raise ValueError(
            f"fitting needs a deterministic sampler, as the ends of the noises are compared; {sampler!r} draws noise"
        )
    first, last = _ends(sde, start, end)

    def times(numbers):
        return jnp.concatenate(
            [
                jnp.full(1, start),
                sde.time(-2 * _log_levels(numbers["knots"], first, last))[1:-1],
                jnp.full(1, end),
            ]
        )

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
        target = _target(denoise, sde, x, start, None if denoise_last else end, cond)
    starts = [
        {"knots": _increments(levels)}
        for levels in _start_levels(sde, steps, start, end, data_sd(denoise))
    ]
    numbers, history = _descend(walk, starts, x, target, cond, distance, updates, rate, progress)
    found = np.asarray(times(numbers), np.float64)
    found[0], found[-1] = start, end
    return Fit(found, history)


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
    """Learn levels, asked levels and weights of the `FewSteps` solver that brings noises `x` closest to the accurate ends.

    What belongs to the size of the data is chosen by the denoiser's `sigma_data`, or for data of size 1. A process that leaves hardly any
    signal at t = 1 is started at a noise level of 200, or of 200 standard deviations if the data are larger than 1.

    Args:
        x: noises of the prior at t = 1 (batch, ...), some 128 of them; half are held out.
        nfe: network evaluations of the solver.
        end: time to arrive at; None ends with clean data, as a final denoising does, without an evaluation for it.
        target: where the noises should arrive; default, by the adaptive probability flow.
        distance: (ends, target) -> (batch,), in pixels or between features of them.
        updates: of Adam, from the best of several published grids.
        rate: of learning, finite and above 0.
        progress: called with the number of updates made and their total.

    Returns:
        Fit whose `found` is a FewSteps.

    Raises:
        ValueError: fewer than two noises, less than one evaluation or update, a rate that is not above 0, traced values, or a denoiser
            whose walks are not finite.
    """
    nfe, updates = grids.whole_number("nfe", nfe, 1), grids.whole_number("updates", updates, 1)
    sd, clean = data_sd(denoise), end is None
    x, start = _noises(x, rate), start_time(sde, sd)
    stop = _time_of(sde, 3 * sd / nfe**2) if clean else end  # as in `recommended`
    first, last = _ends(sde, start, stop)

    def solver(numbers):
        free = jnp.tril(numbers["weights"], -1)
        levels = jnp.exp(_log_levels(numbers["knots"], first, numbers["last"] if clean else last))
        asked = levels[:nfe] * jnp.exp(numbers["shift"])
        if clean:
            levels = jnp.append(levels[:nfe], 0.0)
        return FewSteps(levels, asked, free + jnp.diag(1 - jnp.sum(free, 1)))

    def walk(numbers, x, cond):
        return solver(numbers)(denoise, sde, x, cond=cond).x

    target = _target(denoise, sde, x, start, end, cond) if target is None else target
    starts = []
    for levels in _start_levels(sde, nfe, start, stop, sd):
        start = {
            "knots": _increments(levels),
            "shift": jnp.zeros(nfe),
            "weights": _second_order(levels[: nfe + 1]),
        }
        starts.append(start | ({"last": jnp.asarray(last)} if clean else {}))
    numbers, history = _descend(walk, starts, x, target, cond, distance, updates, rate, progress)
    return Fit(jax.tree.map(lambda a: np.asarray(a, np.float64), solver(numbers)), history)


def _noises(x: Array, rate: float) -> Array:
    """Return the noises as floating-point numbers of at least 32 bits, whose gradients are of use.

    Raises:
        ValueError: fewer than two noises, a rate that is not above 0, or one of them traced.
    """
    if isinstance(x, Tracer) or isinstance(rate, Tracer):
        raise ValueError(
            "fitting looks at its own progress, so it cannot be traced; call it outside of jax.jit, jax.vmap and jax.grad"
        )
    if np.ndim(x) < 2 or len(x) < 2:
        raise ValueError(
            f"need at least two noises (batch, ...), half of them to hold out, got shape {np.shape(x)}"
        )
    if np.ndim(rate) or not 0 < rate < np.inf:
        raise ValueError(f"need a finite rate > 0, such as 0.03, got {rate}")
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def _ends(sde, start, end):
    """Return log(sigma / alpha) at `start` and at `end`."""
    return tuple(-0.5 * sde.log_snr(jnp.asarray([start, end])))


def _time_of(sde, level):
    """Return the time of a noise level sigma / alpha, or t_min if that comes first."""
    return max(float(sde.t_min), float(sde.time_of_level(level)))


def _target(denoise, sde, x, start, end, cond):
    tolerance, clean = np.float32(1e-6), end is None
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


def _log_levels(knots, first, last):
    """Return decreasing levels from `first` to `last`, in logs."""
    fractions = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jax.nn.softmax(knots))[:-1], jnp.ones(1)])
    return first + fractions * (last - first)


def _increments(levels):
    """Return the knots of given levels, the inverse of `_log_levels`."""
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
    """Return the weights of DPM-Solver++(2M), free part only: w_ij off the diagonal."""
    h = -np.diff(np.log(np.asarray(levels, np.float64)))
    return jnp.asarray(np.diag(-h[1:] / (2 * h[:-1]), -1), jnp.float32)


def _descend(walk, starts, x, target, cond, distance, updates, rate, progress):
    """Minimise from the best of the starts; return the numbers that were best on the held-out half, and the held-out medians."""
    half = len(x) // 2
    fitted, held = (
        jax.tree.map(lambda a, s=s: a[s], (x, target, cond))
        for s in (slice(half), slice(half, None))
    )

    @eqx.filter_jit
    def median(numbers, batch):
        x, target, cond = batch
        return jnp.median(distance(walk(numbers, x, cond), target))

    def loss(numbers, batch, small):
        x, target, cond = batch
        return jnp.mean(jnp.log(distance(walk(numbers, x, cond), target) ** 2 + small**2))

    import optax  # only here: the rest of the package works without it

    size = max(updates // _CHUNKS, 1)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    @eqx.filter_jit
    def chunk(numbers, opt, batch, small, rate):
        def update(_, carry):
            numbers, opt = carry
            change, opt = tx.update(jax.grad(loss)(numbers, batch, small), opt, numbers)
            return jax.tree.map(lambda a, b: a - rate * b, numbers, change), opt

        return jax.lax.fori_loop(0, size, update, (numbers, opt))

    at_start = [float(median(numbers, held)) for numbers in starts]
    if not np.isfinite(at_start).any():
        raise ValueError(
            "no walk of this denoiser from these noises ends in finite numbers near the accurate ends; check the denoiser and, if they are "
            "given, the target and the distance"
        )
    best = numbers = starts[int(np.nanargmin(at_start))]
    history, since, opt = [np.nanmin(at_start)], 0, tx.init(numbers)
    small, slowest = jnp.asarray(0.01 * history[0]), 0.01 * rate
    for i in range(_CHUNKS):
        numbers, opt = chunk(numbers, opt, fitted, small, jnp.asarray(rate))
        history.append(float(median(numbers, held)))
        since += 1
        if history[-1] <= np.nanmin(history):
            best, since = numbers, 0
        if progress is not None:
            progress((i + 1) * size, _CHUNKS * size)
        if since >= _PATIENCE:
            numbers, opt, rate, since = best, tx.init(best), rate / 3, 0
            if rate < slowest:
                break
    return best, np.asarray(history)
