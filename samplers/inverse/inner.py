"""Walks inside of a step: from the state at t down to hardly any noise."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, repeat_evaluations

from ..base import fold
from ..one_step import OneStep, OneStepCoefficients


def inner_plan(
    sampler: OneStep, sde: SDE, ts: Array, steps: int, end: Any
) -> tuple[OneStepCoefficients, Array]:
    """Return the plans of walks from each time of a grid but the last.

    Their noise levels fall geometrically to `end`, or to a tenth of their start if that is less.

    Args:
        sampler: takes the steps.
        sde: the process.
        ts: the grid (times + 1,).
        steps: of each walk.
        end: the noise level at which they end.

    Returns:
        The coefficients, each (times, steps), and alpha at the end of each walk, (times,).
    """
    start = sde.noise_level(ts[:-1])
    last = jnp.minimum(end, start / 10)
    fraction = jnp.arange(1, steps + 1) / steps
    falling = start[:, None] * (last / start)[:, None] ** fraction[None]
    grids = jnp.concatenate([ts[:-1, None], sde.time_of_level(falling)], axis=1)
    plans = jax.vmap(lambda grid: sampler.plan(sde, grid))(grids)
    return plans, sde.marginal(grids[:, -1])[0]


def walk_down(
    sampler: OneStep, keys, denoise, x: Array, plan: OneStepCoefficients, alpha_end: Array, cond
) -> Array:
    """Return the clean sample that a walk from the state `x` ends at, each (batch, ...).

    Args:
        sampler: takes the steps.
        keys: of the samples, for this walk alone.
        denoise: the denoiser of the prior.
        x: the state.
        plan: the coefficients of the walk, each (steps,).
        alpha_end: alpha at its end.
        cond: handed to the denoiser.
    """
    steps = len(plan.t)

    def body(i, x):
        coefficients = jax.tree.map(lambda c: c[i], plan)
        return sampler.step(fold(keys, i), denoise, x, coefficients, (), cond)[0]

    with repeat_evaluations(steps):
        x = jax.lax.fori_loop(0, steps, body, x)
    return x / alpha_end
