r"""Time grids measured on a denoiser, without gradients: where its estimate changes, steps are
short.

A few noises are carried accurately through many candidate levels :math:`s = \sigma / \alpha`;
:math:`y = x / \alpha` and :math:`\hat x_0` are kept at each. A rule then picks n + 1 of the
candidates:

- "speed": equal lengths of the path that :math:`\hat x_0` describes, the square root of the noises'
  mean squared speed;
- "step": the cheapest path when a step from i to j costs the error of one DDIM step along it (Chen
  et al. 2024, arXiv:2405.11326);
- "bound": the cheapest path when it costs
  :math:`\int_{s_j}^{s_i} E \| \hat x_0(y_s) - \hat x_0(y_{s_i}) \|^2 s^{-3} ds`, the bound on the
  Kullback-Leibler divergence of align your steps (Sabour et al. 2024, arXiv:2404.14507, eq. 10),
  here along the flow instead of the forward process.

The cheapest path is found exactly, by dynamic programming.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from sde_lib import SDE, check_name

from . import grids
from .base import Denoise, sample
from .data_size import data_sd
from .heun import Heun


def _speed(levels, x0, y, steps):
    length = np.append(0.0, np.cumsum(np.sqrt(np.mean(np.diff(x0, axis=0) ** 2, axis=(1, 2)))))
    return np.interp(np.linspace(0, length[-1], steps + 1), length, np.log(levels))


def _step_cost(levels, x0, y):
    ratio = levels[None, :] / levels[:, None]
    cost = np.zeros_like(ratio)
    for i in range(len(levels)):
        landed = ratio[i][:, None, None] * y[i] + (1 - ratio[i])[:, None, None] * x0[i]
        cost[i] = np.mean(np.sqrt(np.mean((landed - y) ** 2, -1)), -1)
    return cost


def _bound_cost(levels, x0, y):
    cost, width = np.zeros((len(levels), len(levels))), -np.diff(levels)
    for i in range(len(levels)):
        rate = np.mean((x0[i:] - x0[i]) ** 2, axis=(1, 2)) / levels[i:] ** 3
        cost[i, i:] = np.append(0.0, np.cumsum((rate[1:] + rate[:-1]) / 2 * width[i:]))
    return cost


def _cheapest(cost, steps):
    """Return the `steps` + 1 indices, first and last included, whose path costs least."""
    n = len(cost)
    cost = np.where(np.triu(np.ones((n, n)), 1) > 0, cost, np.inf)
    best, came = cost[0], []
    for _ in range(steps - 1):
        through = best[:, None] + cost
        came.append(np.argmin(through, 0))
        best = np.min(through, 0)
    path = [n - 1]
    for previous in reversed(came):
        path.append(int(previous[path[-1]]))
    return [0, *reversed(path)]


def _path(cost):
    return lambda levels, x0, y, steps: np.log(levels)[_cheapest(cost(levels, x0, y), steps)]


RULES = {"speed": _speed, "step": _path(_step_cost), "bound": _path(_bound_cost)}


def measured_grid(
    denoise: Denoise,
    sde: SDE,
    x: Real[Array, "batch ..."],
    steps: grids.Count,
    rule: str = "step",
    *,
    end: float = 1e-3,
    cond: Any = None,
    candidates: grids.Count = 100,
) -> np.ndarray:
    """Return times (steps + 1,) down to `end`, chosen for a denoiser on noises `x` of its prior,
    for 3 x `candidates` + 1 evaluations.

    The grid starts where `grids.log_snr` does: at t = 1 if the process leaves some signal there.

    Args:
        cond: conditions of the noises, handed to `denoise`.
        candidates: how many steps the accurate walk has; Heun's method takes two evaluations for
            each, and one more tells the estimate at each of the candidate levels.

    Raises:
        ValueError: an unknown rule, more steps than candidates, or a walk that is not finite.
    """
    check_name("rule", rule, RULES)
    candidates = grids.whole_number("candidates", candidates, 1)
    if grids.whole_number("steps", steps, 1) > candidates:
        raise ValueError(
            f"need 1 to {candidates} steps, as many as there are candidates, got {steps}"
        )
    x = jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))  # whole numbers, narrow
    ts = grids.log_snr(sde, candidates, end=end, sd=data_sd(denoise))
    walk = sample(
        jax.random.key(0), Heun(), denoise, sde, ts, x, cond=cond, keep=None, denoise_last=False
    )
    assert walk.path is not None
    times = jnp.asarray(ts, x.dtype)
    x0 = jax.lax.map(lambda at: denoise(at[0], at[1], cond).x0, (walk.path, times))
    alpha, sigma = (np.asarray(a, np.float64) for a in sde.marginal(times))
    y, x0 = (np.asarray(a, np.float64).reshape(candidates + 1, len(x), -1) for a in (walk.path, x0))
    if not (np.isfinite(y).all() and np.isfinite(x0).all()):
        raise ValueError(
            "the walk that the grid is measured on is not finite; measure on noises of the prior, such as draw_prior gives, "
            "and check the denoiser"
        )
    log_levels = RULES[rule](sigma / alpha, x0, y / alpha[:, None, None], steps)
    times = np.asarray(sde.time(-2 * jnp.asarray(log_levels)), np.float64)
    times[0], times[-1] = ts[0], end
    return times
