r"""Parallel in time: all steps of a window at once, again and again, until they agree (ParaDiGMS: Shih et al. 2023, arXiv:2305.16317).

A walk is the fixed point of :math:`x_{i+1} = \phi_i(x_i)`, with its noise frozen in the keys. Picard's iteration evaluates every step of a
window from the current guess and adds up the increments,

.. math:: u_{i+1} \leftarrow u_0 + \sum_{j \le i} \big(\phi_j(x_j) / h_{j+1} - x_j / h_j\big), \qquad
    u = x / h, \quad h = \sqrt{\alpha^2 + \sigma^2},

which is exact for the first point of the window. The window moves on past the points that no longer change. More evaluations than a
sequential walk, but fewer one after the other; each iteration is one network call on a batch of batch x window.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from sde_lib import SDE, count_evaluations, in_float64

from .base import (
    Counted,
    Denoise,
    Sampler,
    check_grid,
    check_plan,
    check_sampler,
    fold,
    sample_keys,
)
from .checks import check_batch, check_count, check_key, check_number, check_problem


class ParallelSamples(NamedTuple):
    """What `sample_parallel` returns."""

    x: Array  # (batch, ...) at ts[-1]
    nfe: Int[Array, ""]  # network evaluations of the slowest sample
    depth: Int[Array, ""]  # network calls one after the other


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
    """Return what `sample(..., denoise_last=False)` returns, to `tolerance`, in fewer sequential network calls.

    Args:
        sampler: a sampler without memory, deterministic or stochastic.
        window: steps iterated at once; default all.
        tolerance: a point is settled when its last change, a root mean square over dimensions, is below tolerance times h; each
            sample by itself.
        mesh: devices over whose first axis the steps of the window are spread; without it the batch may be, by its own sharding.

    Raises:
        ValueError: a sampler with memory, a window that is empty or that the devices cannot share, or a grid or plan that `sample`
            would refuse.
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
            f"a multi-step sampler's steps depend on each other and cannot be iterated on their own, got {sampler!r}"
        )
    window = steps if window is None else window
    check_count(window=window)
    if window > steps:
        raise ValueError(f"need a window of 1 to {steps} steps, got {window}")
    if mesh is not None and window % mesh.devices.shape[0]:
        raise ValueError(
            f"{mesh.devices.shape[0]} devices cannot share a window of {window} steps; choose a multiple"
        )
    plan = check_plan(sampler, sde, in_float64(sampler.plan, sde, grid))
    scale = in_float64(lambda sde, ts: jnp.hypot(*sde.marginal(ts)), sde, grid)
    rows, scale = jax.tree.map(lambda c: jnp.asarray(c, x.dtype), (plan, scale))
    bound = jnp.asarray(tolerance, x.dtype)
    found = _iterate(
        key, sampler, Counted(denoise), rows, scale, x, cond, index, window, bound, mesh
    )
    return found._replace(x=found.x.astype(dtype))


@eqx.filter_jit
def _iterate(key, sampler, denoise, rows, scale, x, cond, index, window, tolerance, mesh):
    steps, evaluations = len(scale) - 1, 0
    # Beyond the last step the window is padded with steps that are evaluated but change nothing.
    rows = jax.tree.map(lambda c: jnp.concatenate([c, jnp.repeat(c[-1:], window, 0)]), rows)
    scale = jnp.concatenate([scale, jnp.repeat(scale[-1:], window)])

    def spread(steps):  # over the devices
        return (
            steps
            if mesh is None
            else jax.lax.with_sharding_constraint(
                steps, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
            )
        )

    def alone(key, x, cond):
        axes = (1,) * x.ndim

        def column(values):
            return values.reshape(-1, *axes)

        def iterate(carry):
            nonlocal evaluations
            first, points, depth = carry  # points: (steps + 1 + window, ...) in x / h
            place = first + jnp.arange(window)
            row = jax.tree.map(lambda c: jax.lax.dynamic_slice_in_dim(c, first, window), rows)
            h = jax.lax.dynamic_slice_in_dim(scale, first, window + 1)
            u = jax.lax.dynamic_slice_in_dim(points, first, window)

            def once(i, x, row):
                return sampler.step(
                    fold(key[None], i),
                    denoise,
                    x[None],
                    row,
                    (),
                    jax.tree.map(lambda c: c[None], cond),
                )[0][0]

            with count_evaluations() as tally:
                moved = spread(jax.vmap(once)(spread(place), spread(u * column(h[:-1])), row))
            evaluations = tally.total  # of one step
            moved = moved / column(h[1:])
            change = jnp.where(column(place < steps), moved - u, 0)
            new = u[:1] + jnp.cumsum(change, 0)
            old = jax.lax.dynamic_slice_in_dim(points, first + 1, window)
            size = jnp.sqrt(jnp.mean((new - old) ** 2, tuple(range(1, new.ndim))))
            unsettled = (size > tolerance) & (jnp.arange(window) > 0)  # the first point is exact
            settled = jnp.where(jnp.any(unsettled), jnp.argmax(unsettled), window).astype(
                first.dtype
            )
            points = jax.lax.dynamic_update_slice_in_dim(points, new, first + 1, 0)
            # What comes after the window starts from its last point.
            beyond = jnp.arange(len(points)) > first + window
            points = jnp.where(column(beyond), new[-1:], points)
            return first + settled, points, depth + 1

        points = jnp.broadcast_to((x / scale[0])[None], (steps + 1 + window, *x.shape))
        start = (jnp.zeros((), jnp.int32), points, jnp.zeros((), jnp.int32))
        _, points, depth = jax.lax.while_loop(lambda carry: carry[0] < steps, iterate, start)
        return points[steps] * scale[steps], depth

    x, depth = jax.vmap(alone)(sample_keys(key, index), x, cond)
    depth = jnp.max(depth) * evaluations
    return ParallelSamples(x, depth * window, depth)
