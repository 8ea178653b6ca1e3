r"""Walks without compilation: a plan in float64, then `step` in plain NumPy, under noise that the test supplies.

A step is arithmetic on its coefficients, so it also takes many steps at once: with the batch axis last in every coefficient, entry b of
the batch is moved by step b, and one call does all steps of a walk, each from a state of its own.
"""

import functools
import sys

import jax
import numpy as np

from samplers import base
from sde_lib import in_float64

END = 0.01


def smooth_grid(sampler, n):
    """Return times from 1 to END whose square roots are equally spaced, or start in steps that grow like 1 / n^2 for orders above 2.

    A warm-up is of low order: it spoils no order up to 4 if its own steps are that small.
    """
    fraction = np.linspace(0, 1, n + 1)
    return (
        1 + (END**0.5 - 1) * (np.sin(np.pi / 2 * fraction) ** 2 if sampler.order > 2 else fraction)
    ) ** 2


def supply(patch, draw):
    """Make every sampler take its noise from `draw(like)`, also in each turn of an inner loop."""
    normal, fold = base.normal, base.fold
    for module in list(sys.modules.values()):
        if getattr(module, "normal", None) is normal:
            patch.setattr(module, "normal", lambda keys, like: draw(like))
        if getattr(module, "fold", None) is fold:
            patch.setattr(module, "fold", lambda keys, data: keys)
    patch.setattr(
        jax.lax,
        "fori_loop",
        lambda start, stop, body, x: functools.reduce(
            lambda x, i: body(i, x), range(start, stop), x
        ),
    )


def memory_like(sampler, x):
    """Return the memory that a walk of `x` starts with."""
    return jax.tree.map(lambda a: np.zeros(a.shape), jax.eval_shape(sampler.init, x))


def times(plan):
    """Return every time at which the steps of a plan call the network."""
    parts = [
        v
        for path, v in jax.tree_util.tree_leaves_with_path(plan)
        if getattr(path[-1], "name", "") in ("t", "s")
    ]
    return np.unique(np.concatenate([np.ravel(v) for v in parts]))


def walk(sampler, sde, ts, x, estimate, plan=None):
    """Return where `x` (batch, d) ends; `estimate(x, alpha, sigma)` is a denoiser in NumPy."""
    if plan is None:
        plan = in_float64(sampler.plan, sde, np.asarray(ts, np.float64))
    known = times(plan)
    marginal = dict(
        zip(known.tolist(), zip(*in_float64(sde.marginal, known), strict=True), strict=True)
    )
    memory = memory_like(sampler, x)
    for i in range(len(ts) - 1):
        coefficients = jax.tree.map(lambda c, i=i: c[i], plan)
        x, memory = sampler.step(
            None,
            lambda x, t, cond: estimate(np.asarray(x), *marginal[float(t)]),
            x,
            coefficients,
            memory,
            None,
        )
    return np.asarray(x)


def step_all(sampler, plan, states, memories, estimate):
    """Take every step of a plan at once, each from K states (steps, K, d) with memories like them, and return both afterwards."""
    n, k, d = states.shape

    def flat(a):
        return a.reshape(n * k, d)

    def of_each_state(c):
        return np.repeat(np.moveaxis(c, 0, -1), k, axis=-1)[..., None]

    x, memory = sampler.step(
        None,
        estimate,
        flat(states),
        jax.tree.map(of_each_state, plan),
        jax.tree.map(flat, memories),
        None,
    )
    return jax.tree.map(lambda a: np.asarray(a).reshape(n, k, d), (x, memory))
