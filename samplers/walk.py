"""The one loop: `sample` walks a batch along a grid of times.

The plan of the sampler is evaluated in float64 before anything is compiled, and its steps run in
the precision of the state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from sde_lib import SDE, Denoise, count_evaluations, in_float64, init_memory, recall

from .base import Sampler, fold, sample_keys
from .checks import check_batch, check_count, check_key, check_problem
from .counted import Counted
from .recalling import Recalling
from .signal import signal_and_noise

_CHUNKS = 50  # between which the progress of a walk is reported
_ROUNDING = 1e-6  # by which a grid may miss its ends, as it may have been rounded to float32


class Samples(NamedTuple):
    """What `sample` returns."""

    x: Array  # (batch, ...) the samples
    nfe: Int[Array, ""]  # network evaluations spent on each of them
    path: Array | None  # (keep, batch, ...) the last states of the walk, oldest first


class Carry(NamedTuple):
    """What a walk hands from step to step."""

    x: Array  # (batch, ...)
    memory: Any  # of the sampler
    recalled: Any  # of the denoise function, see `sde_lib.Remembering`
    path: Array  # (keep, batch, ...) the last states so far


def sample(
    key: Key[Array, ""],
    sampler: Sampler,
    denoise: Denoise,
    sde: SDE,
    ts: ArrayLike,
    x: Array,
    *,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
    keep: int | None = 0,
    denoise_last: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Walk `x` (batch, ...) from `ts[0]` down to `ts[-1]`.

    The walk is compiled once for each sampler, shape and number of steps.

    Args:
        key: the key of the run; draw the start with `draw_prior` from the same key.
        sampler: takes the steps.
        denoise: a callable (x, t, cond) -> Estimate, such as a `Denoiser`; see `Denoise`. What it
            remembers is handed from call to call, see `Remembering`.
        sde: the process.
        ts: decreasing times (steps + 1,), see `samplers.grids`.
        x: the start (batch, ...). The walk computes in float32 at least and returns the floating
            type of `x`.
        cond: a pytree of conditions with leading axis `batch`, handed to `denoise`.
        index: the number (batch,) of each sample in its run; default 0, 1, ...
        keep: how many of the last states to return as `path`; None for all steps + 1.
        denoise_last: return the expected clean data at `ts[-1]`, at the price of one more
            evaluation, instead of the noisy state; where sigma is 0 there, the state is clean
            already.
        progress: called between chunks of steps with the number of steps done and their total.

    Returns:
        Samples in the floating type of `x`.

    Raises:
        ValueError: the grid does not decrease or leaves the range [t_min, 1] of the SDE, the
            sampler has no finite coefficients on it, the state is not finite, or the conditions or
            the index do not fit the batch.
    """
    check_key(key)
    check_problem(denoise, sde)
    check_sampler(sampler)
    x, index, dtype = check_batch(x, cond, index)
    grid = check_grid(sde, ts)
    denoise = Counted(denoise)
    steps = len(grid) - 1
    if keep is not None:
        check_count(0, keep=keep)
    states = min(steps + 1 if keep is None else keep, steps + 1)
    plan = check_plan(sampler, sde, in_float64(sampler.plan, sde, grid))
    plan = jax.tree.map(lambda c: jnp.asarray(c, x.dtype), plan)
    path = jnp.broadcast_to(x, (states, *x.shape))
    recalled = init_memory(denoise, x)
    carry = Carry(x=x, memory=sampler.init(x), recalled=recalled, path=path)
    nfe = jnp.zeros((), jnp.int32)
    for start, stop in _chunks(steps, progress is not None):
        carry, spent = _walk(key, sampler, denoise, plan, carry, cond, index, start, stop)
        nfe += spent
        if progress is not None:
            jax.block_until_ready(carry)
            progress(int(stop), steps)
    x, _, recalled, path = carry
    if denoise_last and not _is_clean(sde, grid):
        end = jnp.asarray(grid[-1], x.dtype)
        x, spent = _denoised(denoise, x, end, cond, recalled)
        nfe += spent
    return Samples(x=x.astype(dtype), nfe=nfe, path=path.astype(dtype) if states else None)


def check_sampler(sampler: Any) -> None:
    """Raise a ValueError unless `sampler` is one."""
    if not isinstance(sampler, Sampler):
        raise ValueError(f"need a sampler such as DDIM() or Heun(churn=20.0), got {sampler!r}")


def check_grid(sde: SDE, ts: ArrayLike) -> Any:
    """Return the grid as an array (steps + 1,).

    Raises:
        ValueError: it is not a vector of times that fall from at most 1 to at least t_min, as far
            as it is concrete.
    """
    traced = any(isinstance(t, Tracer) for t in jax.tree.leaves(ts))
    grid: Any = jnp.asarray(ts) if traced else np.asarray(ts, np.float64)
    if grid.ndim == 0:
        raise ValueError(f"ts is a grid of times, such as grids.log_snr(sde, 20), got {grid}")
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(
            f"a grid is a vector of at least two strictly decreasing times, got {grid}"
        )
    if traced:
        return grid
    if not np.all(np.diff(grid) < 0):
        raise ValueError(
            "a grid is a vector of at least two strictly decreasing times, "
            f"got {np.array2string(grid, threshold=8)}"
        )
    low = 0.0 if isinstance(sde.t_min, Tracer) else float(sde.t_min) * (1 - _ROUNDING)
    if grid[0] > 1 + _ROUNDING or grid[-1] < low:
        raise ValueError(
            f"the grid runs from {grid[0]:g} to {grid[-1]:g}; "
            f"this SDE covers times from 1 down to t_min = {sde.t_min}"
        )
    return grid


def check_plan(sampler: Sampler, sde: SDE, plan: Any) -> Any:
    """Return the plan.

    Raises:
        ValueError: it is known and not finite, as where a process has no signal left at t = 1.
    """
    for leaf in jax.tree.leaves(plan):
        if isinstance(leaf, Tracer) or np.all(np.isfinite(leaf)):
            continue
        finite = np.isfinite(leaf).reshape(len(leaf), -1).all(1)
        raise ValueError(
            f"{type(sampler).__name__} has no finite coefficients in step "
            f"{int(np.argmin(finite))} of this grid on {type(sde).__name__}; "
            "if no signal is left at t = 1, start the grid below 1 (start=0.99), "
            "or take a sampler that can start there, such as DDIM or DPMpp2M"
        )
    return plan


def _is_clean(sde: SDE, grid: Any) -> bool:
    """Tell whether the grid is known to end where sigma is 0."""
    _, sigma = in_float64(signal_and_noise, sde, grid[-1])
    return not isinstance(sigma, Tracer) and not np.any(sigma)


def _chunks(steps: int, reporting: bool) -> list[tuple[Any, Any]]:
    """Return the first and last step of each loop.

    Without a report there is one static loop, which can be differentiated; with one there are about
    50 traced ones, which share one compilation.
    """
    if not reporting:
        return [(0, steps)]
    ends = np.unique(np.linspace(0, steps, min(steps, _CHUNKS) + 1).astype(np.int32))
    return [(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]


@eqx.filter_jit
def _walk(key, sampler, denoise, plan, carry, cond, index, start, stop):
    """Take the steps from `start` to `stop`; return the carry and the evaluations spent."""
    keys = sample_keys(key, index)
    steps = len(jax.tree.leaves(plan)[0])
    evaluations_per_step = 0

    def body(i, carry):
        nonlocal evaluations_per_step
        x, memory, recalled, path = carry
        coefficients = jax.tree.map(lambda c: c[i], plan)
        called = Recalling(denoise, recalled)
        with count_evaluations() as tally:
            x, memory = sampler.step(fold(keys, i), called, x, coefficients, memory, cond)
        evaluations_per_step = tally.total
        path = _with_state(path, x, i + len(path) - steps)
        return Carry(x=x, memory=memory, recalled=called.memory, path=path)

    carry = jax.lax.fori_loop(start, stop, body, carry)
    return carry, jnp.asarray(evaluations_per_step * (stop - start))


def _with_state(path: Array, x: Array, place: Array) -> Array:
    """Return the path with the state `x` at a place; nothing changes if that is negative."""
    if not len(path):
        return path
    return path.at[jnp.where(place < 0, len(path), place)].set(x, mode="drop")


@eqx.filter_jit
def _denoised(denoise, x, t, cond, recalled):
    """Return the expected clean data at time `t` and the evaluations spent."""
    with count_evaluations() as tally:
        x0 = recall(denoise, x, t, cond, recalled)[0].x0
    return x0, jnp.asarray(tally.total)
