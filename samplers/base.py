r"""A sampler plans its coefficients once, then steps; `sample` owns the only loop.

A grid :math:`t_0 > t_1 > \dots > t_n` gives n steps from t to s. `plan` is evaluated in float64 before anything is compiled, `step`
runs in the precision of the state. A sample belongs to its key and index, not to its batch: its noise comes from
``fold_in(fold_in(key, index), step)``, so that image 17 of a run is the same image in any batch and on any number of devices.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from sde_lib import SDE, count_evaluations, in_float64

from .checks import check_batch, check_count, check_index, check_key, check_problem
from .counted import Counted as Counted
from .counted import Denoise as Denoise

_START = 0xFFFFFFFF  # the "step" of the prior draw; steps count up from 0


class Sampler(eqx.Module):
    """A way back from noise to data along a decreasing time grid. The fields of a sampler are its hyper-parameters."""

    order: ClassVar[int]  # (weak) order of convergence in the step size
    stays: ClassVar[bool] = (
        False  # whether a step ends at the time where it starts, as a corrector's does
    )

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return False

    @abc.abstractmethod
    def plan(self, sde: SDE, ts: Array) -> Any:
        """Return a NamedTuple of the coefficients of every step of the grid `ts` (steps + 1,), each with leading axis `steps`."""

    def init(self, x: Array) -> Any:
        """Return the memory that a multi-step method carries; nothing by default."""
        return ()

    @abc.abstractmethod
    def step(
        self,
        keys: Key[Array, " batch"],
        denoise: Denoise,
        x: Array,
        row: Any,
        memory: Any,
        cond: Any,
    ) -> tuple[Array, Any]:
        """Take one step with the coefficients `row` of the plan; return the new state and memory."""


class Samples(NamedTuple):
    """What `sample` returns."""

    x: Array  # (batch, ...) the samples
    nfe: Int[Array, ""]  # network evaluations spent on each of them
    path: Array | None  # (kept, batch, ...) the last states of the walk, oldest first


def fold(keys: Key[Array, " batch"], data: ArrayLike) -> Key[Array, " batch"]:
    """Fold one number into every key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, " batch"], like: Array) -> Array:
    """Draw standard normal noise shaped like `like` (batch, ...), each sample from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def sample_keys(key: Key[Array, ""], index: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Return the key that belongs to each sample of a run."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def draw_prior(
    key: Key[Array, ""], sde: SDE, shape: tuple[int, ...], index: Int[Array, " batch"] | None = None
) -> Array:
    """Draw the start x (batch, ...) of `shape` for the samples `index` (default 0, 1, ...) of the run `key`."""
    check_key(key)
    if not isinstance(sde, SDE):
        raise ValueError(f"sde is a process such as VP(), got {sde!r}")
    if not isinstance(shape, tuple | list) or not shape:
        raise ValueError(f"need a shape (batch, ...) such as (16, 32, 32, 3), got {shape!r}")
    for size in shape:
        check_count(shape=size)
    keys = fold(sample_keys(key, check_index(index, shape[0])), np.uint32(_START))
    return jax.vmap(lambda k: sde.prior(k, tuple(shape[1:])))(keys)


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
    """Walk `x` (batch, ...) from `ts[0]` down to `ts[-1]`, compiled once for each sampler, shape and number of steps.

    Args:
        key: the key of the run; draw the start with `draw_prior` from the same key.
        denoise: a callable (x, t, cond) -> Estimate, such as a `Denoiser`.
        ts: decreasing times (steps + 1,), see `samplers.grids`.
        x: the start (batch, ...). The walk computes in float32 at least and returns the floating type of `x`.
        cond: a pytree of conditions with leading axis `batch`, handed to `denoise`.
        index: the number (batch,) of each sample in its run; default 0, 1, ...
        keep: how many of the last states to return as `path`; None for all steps + 1.
        denoise_last: return the expected clean data at `ts[-1]`, at the price of one more evaluation, instead of the noisy state; where
            sigma is 0 there, the state is clean already.
        progress: called between chunks of steps with the number of steps done and their total.

    Raises:
        ValueError: the grid does not decrease or leaves the range [t_min, 1] of the SDE, the sampler has no finite coefficients on it, the
            state is not finite, or the conditions or the index do not fit the batch.
    """
    check_key(key)
    check_problem(denoise, sde)
    check_sampler(sampler)
    x, index, dtype = check_batch(x, cond, index)
    grid = check_grid(sde, ts)
    steps, denoise = len(grid) - 1, Counted(denoise)
    if keep is not None:
        check_count(0, keep=keep)
    kept = min(steps + 1 if keep is None else keep, steps + 1)
    plan = check_plan(sampler, sde, in_float64(sampler.plan, sde, grid))
    rows = jax.tree.map(lambda c: jnp.asarray(c, x.dtype), plan)
    carry = (x, sampler.init(x), jnp.broadcast_to(x, (kept, *x.shape)))
    nfe = jnp.zeros((), jnp.int32)
    for start, stop in _chunks(steps, progress is not None):
        carry, spent = _walk(key, sampler, denoise, rows, carry, cond, index, start, stop)
        nfe += spent
        if progress is not None:
            jax.block_until_ready(carry)
            progress(int(stop), steps)
    x, _, path = carry
    if denoise_last and not _is_clean(sde, grid):
        x, spent = _final(denoise, x, jnp.asarray(grid[-1], x.dtype), cond)
        nfe += spent
    return Samples(x.astype(dtype), nfe, path.astype(dtype) if kept else None)


def check_sampler(sampler: Any) -> None:
    """Raise a ValueError unless `sampler` is one."""
    if not isinstance(sampler, Sampler):
        raise ValueError(f"need a sampler such as DDIM() or Heun(churn=20.0), got {sampler!r}")


def check_grid(sde: SDE, ts: ArrayLike) -> Any:
    """Return the grid as an array.

    Raises:
        ValueError: it is not a vector of times that fall from at most 1 to at least t_min, as far as it is concrete.
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
            f"a grid is a vector of at least two strictly decreasing times, got {np.array2string(grid, threshold=8)}"
        )
    # A grid may have been rounded to float32.
    low = 0.0 if isinstance(sde.t_min, Tracer) else float(sde.t_min) * (1 - 1e-6)
    if grid[0] > 1 + 1e-6 or grid[-1] < low:
        raise ValueError(
            f"the grid runs from {grid[0]:g} to {grid[-1]:g}; this SDE covers times from 1 down to t_min = {sde.t_min}"
        )
    return grid


def check_plan(sampler: Sampler, sde: SDE, plan: Any) -> Any:
    """Return the plan; raise a ValueError if it is concrete and not finite, as where a process has no signal left at t = 1."""
    for leaf in jax.tree.leaves(plan):
        if not isinstance(leaf, Tracer) and not np.all(np.isfinite(leaf)):
            first = int(np.argmin(np.isfinite(leaf).reshape(len(leaf), -1).all(1)))
            raise ValueError(
                f"{type(sampler).__name__} has no finite coefficients in step {first} of this grid on {type(sde).__name__}; if no signal "
                "is left at t = 1, start the grid below 1 (start=0.99), or take a sampler that can start there, such as DDIM or DPMpp2M"
            )
    return plan


def _is_clean(sde: SDE, grid: Any) -> bool:
    """Tell whether the grid is known to end where sigma is 0."""
    sigma = in_float64(lambda sde, t: sde.marginal(t)[1], sde, grid[-1])
    return not isinstance(sigma, Tracer) and not np.any(sigma)


def _chunks(steps: int, reporting: bool) -> list[tuple[Any, Any]]:
    """Return the ends of the loops: one static loop (differentiable), or about 50 traced ones that share one compilation."""
    if not reporting:
        return [(0, steps)]
    ends = np.unique(np.linspace(0, steps, min(steps, 50) + 1).astype(np.int32))
    return [(jnp.asarray(a), jnp.asarray(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]


@eqx.filter_jit
def _walk(key, sampler, denoise, rows, carry, cond, index, start, stop):
    keys, steps, per_step = sample_keys(key, index), len(jax.tree.leaves(rows)[0]), 0

    def body(i, carry):
        nonlocal per_step
        x, memory, path = carry
        row = jax.tree.map(lambda c: c[i], rows)
        with count_evaluations() as tally:
            x, memory = sampler.step(fold(keys, i), denoise, x, row, memory, cond)
        per_step = tally.total
        if len(path):
            place = (
                i + len(path) - steps
            )  # the last state goes last; what lies before the first kept one is dropped
            path = path.at[jnp.where(place < 0, len(path), place)].set(x, mode="drop")
        return x, memory, path

    carry = jax.lax.fori_loop(start, stop, body, carry)
    return carry, jnp.asarray(per_step * (stop - start))


@eqx.filter_jit
def _final(denoise, x, t, cond):
    with count_evaluations() as tally:
        x0 = denoise(x, t, cond).x0
    return x0, jnp.asarray(tally.total)
