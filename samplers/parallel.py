r"""Parallel in time: all steps of a window at once, again and again, until they agree.

This is ParaDiGMS (Shih et al. 2023, arXiv:2305.16317). A walk is the fixed point of
:math:`x_{i+1} = \phi_i(x_i)`, with its noise frozen in the keys. Picard's iteration evaluates every
step of a window from the current guess and adds up the increments,

.. math::
    u_{i+1} \leftarrow u_0 + \sum_{j \le i} \big(\phi_j(x_j) / h_{j+1} - x_j / h_j\big), \qquad
    u = x / h, \quad h = \sqrt{\alpha^2 + \sigma^2},

which is exact for the first point of the window. The window moves on past the points that no longer
change. There are more evaluations than in a sequential walk, but fewer one after the other: each
iteration is one network call on a batch of batch x window.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from sde_lib import SDE, Denoise, count_evaluations, in_float64

from .base import Sampler, fold, sample_keys
from .checks import check_batch, check_count, check_key, check_number, check_problem
from .counted import Counted
from .walk import check_grid, check_plan, check_sampler


class ParallelSamples(NamedTuple):
    """What `sample_parallel` returns."""

    x: Array  # (batch, ...) at ts[-1]
    nfe: Int[Array, ""]  # network evaluations of the slowest sample
    depth: Int[Array, ""]  # network calls one after the other


class Iterate(NamedTuple):
    """The state of Picard's iteration for one sample."""

    first: Array  # () the step at which the window begins
    points: Array  # (steps + 1 + window, ...) the walk, in u = x / h
    depth: Array  # () iterations so far


def sample_parallel(
    key: Key[Array, ""],
    sampler: Sampler,
    denoise: Denoise,
    sde: SDE,
    ts: ArrayLike,
    x: Array,
    *,
    window: int | None = None,
    tolerance: float = 1e-3,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
    mesh: Mesh | None = None,
) -> ParallelSamples:
    """Return what `sample(..., denoise_last=False)` returns, in fewer sequential network calls.

    Args:
        key: the key of the run; draw the start with `draw_prior` from the same key.
        sampler: a sampler without memory, deterministic or stochastic.
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        ts: decreasing times (steps + 1,).
        x: the start (batch, ...).
        window: steps iterated at once; default all.
        tolerance: a point is settled when its last change, a root mean square over dimensions, is
            below tolerance times h; each sample by itself.
        cond: a pytree of conditions with leading axis `batch`.
        index: the number (batch,) of each sample in its run; default 0, 1, ...
        mesh: the steps of the window are shared by the devices along its first axis; without it the
            batch may be, by its own sharding.

    Raises:
        ValueError: a sampler with memory, a window that is empty or that the devices cannot share,
            or a grid or plan that `sample` would refuse.
    """
    check_key(key)
    check_problem(denoise, sde)
    check_sampler(sampler)
    check_number("need tolerance >= 0", lambda v: v >= 0, tolerance=tolerance)
    x, index, dtype = check_batch(x, cond, index)
    grid = check_grid(sde, ts)
    steps = len(grid) - 1
    if jax.tree.leaves(sampler.init(x)):
        raise ValueError(
            "a multi-step sampler's steps depend on each other and cannot be iterated on their "
            f"own, got {sampler!r}"
        )
    window = steps if window is None else window
    check_count(window=window)
    if window > steps:
        raise ValueError(f"need a window of 1 to {steps} steps, got {window}")
    if mesh is not None and window % mesh.devices.shape[0]:
        raise ValueError(
            f"{mesh.devices.shape[0]} devices cannot share a window of {window} steps; "
            "choose a multiple"
        )
    plan = check_plan(sampler, sde, in_float64(sampler.plan, sde, grid))
    scale = in_float64(_scale, sde, grid)
    plan, scale = jax.tree.map(lambda c: jnp.asarray(c, x.dtype), (plan, scale))
    samples = _iterate(
        key,
        sampler,
        Counted(denoise),
        plan,
        scale,
        x,
        cond,
        index,
        window,
        jnp.asarray(tolerance, x.dtype),
        mesh,
    )
    return samples._replace(x=samples.x.astype(dtype))


def _scale(sde: SDE, ts: Array) -> Array:
    """Return the size of a state of unit data, elementwise."""
    return jnp.hypot(*sde.marginal(ts))


@eqx.filter_jit
def _iterate(key, sampler, denoise, plan, scale, x, cond, index, window, tolerance, mesh):
    """Iterate every sample until its last point is settled.

    Args:
        plan: coefficients of the steps, with leading axis `steps`.
        scale: h at the times of the grid (steps + 1,).
    """
    steps = len(scale) - 1
    evaluations = 0
    # Beyond the last step the window is padded with steps that are evaluated but change nothing.
    plan, scale = jax.tree.map(lambda c: _padded(c, window), (plan, scale))

    def solve(key, x, cond):
        """Return the end of one sample, x (...), and the iterations made."""
        take_step = _step_of_one(sampler, denoise, key, cond)

        def iterate(state: Iterate) -> Iterate:
            nonlocal evaluations
            place = state.first + jnp.arange(window)
            coefficients = jax.tree.map(lambda c: _window(c, state.first, window), plan)
            h = _window(scale, state.first, window + 1)
            u = _window(state.points, state.first, window)
            with count_evaluations() as tally:
                moved = jax.vmap(take_step)(
                    _over_devices(place, mesh),
                    _over_devices(u * _column(h[:-1], x), mesh),
                    coefficients,
                )
                moved = _over_devices(moved, mesh)
            evaluations = tally.total  # of one step
            moved = moved / _column(h[1:], x)
            change = jnp.where(_column(place < steps, x), moved - u, 0)
            new = u[:1] + jnp.cumsum(change, 0)
            old = _window(state.points, state.first + 1, window)
            settled = _settled(new, old, tolerance).astype(state.first.dtype)
            return Iterate(
                first=state.first + settled,
                points=_with_window(state.points, new, state.first + 1),
                depth=state.depth + 1,
            )

        start = _constant(x / scale[0], steps + 1 + window)
        end = jax.lax.while_loop(lambda state: state.first < steps, iterate, start)
        return end.points[steps] * scale[steps], end.depth

    x, iterations = jax.vmap(solve)(sample_keys(key, index), x, cond)
    depth = jnp.max(iterations) * evaluations
    return ParallelSamples(x=x, nfe=depth * window, depth=depth)


def _step_of_one(sampler: Sampler, denoise, key, cond) -> Callable:
    """Return the function (i, x, coefficients) -> x that takes step i of one sample (...)."""

    def take_step(i, x, coefficients):
        conditions = jax.tree.map(lambda c: c[None], cond)
        keys = fold(key[None], i)
        return sampler.step(keys, denoise, x[None], coefficients, (), conditions)[0][0]

    return take_step


def _constant(u: Array, length: int) -> Iterate:
    """Return the first guess, a walk that stays at `u` (...)."""
    zero = jnp.zeros((), jnp.int32)
    points = jnp.broadcast_to(u[None], (length, *u.shape))
    return Iterate(first=zero, points=points, depth=zero)


def _over_devices(steps: Array, mesh: Mesh | None) -> Array:
    """Spread the leading axis over the first axis of the mesh."""
    if mesh is None:
        return steps
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return jax.lax.with_sharding_constraint(steps, sharding)


def _padded(values: Array, length: int) -> Array:
    """Return the values followed by `length` copies of the last one."""
    return jnp.concatenate([values, jnp.repeat(values[-1:], length, 0)])


def _column(values: Array, x: Array) -> Array:
    """Return `values` (n,) so that they broadcast against n states like `x`."""
    return values.reshape(-1, *(1,) * x.ndim)


def _window(values: Array, first: Array, length: int) -> Array:
    """Return `length` entries of the leading axis from `first` on."""
    return jax.lax.dynamic_slice_in_dim(values, first, length)


def _settled(new: Array, old: Array, tolerance: Array) -> Array:
    """Return how many points at the start of a window (window, ...) no longer change."""
    window = len(new)
    size = jnp.sqrt(jnp.mean((new - old) ** 2, tuple(range(1, new.ndim))))
    unsettled = (size > tolerance) & (jnp.arange(window) > 0)  # the first point is exact
    return jnp.where(jnp.any(unsettled), jnp.argmax(unsettled), window)


def _with_window(points: Array, new: Array, first: Array) -> Array:
    """Return the points with `new` ones from `first` on; later ones are the last of them."""
    points = jax.lax.dynamic_update_slice_in_dim(points, new, first, 0)
    beyond = jnp.arange(len(points)) >= first + len(new)
    return jnp.where(_column(beyond, new[0]), new[-1:], points)
