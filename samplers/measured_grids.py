r"""Time grids measured on a denoiser: steps are short where its estimate changes.

No gradients are needed. A few noises are carried accurately through many candidate levels
:math:`s = \sigma / \alpha`, and :math:`y = x / \alpha` and :math:`\hat x_0` are stored at each. A
rule then picks n + 1 of the candidates:

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

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from sde_lib import SDE, Denoise, check_name

from . import grids
from .data_size import data_sd
from .heun import Heun
from .walk import sample


class Measured(NamedTuple):
    """What an accurate walk has met at its candidate levels."""

    levels: np.ndarray  # (candidates + 1,) sigma / alpha, decreasing
    x0: np.ndarray  # (candidates + 1, batch, d) the clean data expected there
    y: np.ndarray  # (candidates + 1, batch, d) the states over alpha


def _speed(walk: Measured, steps: int) -> np.ndarray:
    """Return log levels (steps + 1,) at equal lengths of the path of the clean data expected."""
    lengths = np.sqrt(np.mean(np.diff(walk.x0, axis=0) ** 2, axis=(1, 2)))
    length = np.append(0.0, np.cumsum(lengths))
    return np.interp(np.linspace(0, length[-1], steps + 1), length, np.log(walk.levels))


def _step_cost(walk: Measured) -> np.ndarray:
    """Return the error of one DDIM step between any two candidates, from row to column."""
    ratio = walk.levels[None, :] / walk.levels[:, None]
    cost = np.zeros_like(ratio)
    for i in range(len(walk.levels)):
        keep, data = ratio[i][:, None, None], (1 - ratio[i])[:, None, None]
        landed = keep * walk.y[i] + data * walk.x0[i]
        cost[i] = np.mean(np.sqrt(np.mean((landed - walk.y) ** 2, -1)), -1)
    return cost


def _bound_cost(walk: Measured) -> np.ndarray:
    """Return the part of the bound of a step between any two candidates, from row to column."""
    cost = np.zeros((len(walk.levels), len(walk.levels)))
    width = -np.diff(walk.levels)
    for i in range(len(walk.levels)):
        squares = np.mean((walk.x0[i:] - walk.x0[i]) ** 2, axis=(1, 2))
        rate = squares / walk.levels[i:] ** 3
        cost[i, i:] = np.append(0.0, np.cumsum((rate[1:] + rate[:-1]) / 2 * width[i:]))
    return cost


def _cheapest(cost: np.ndarray, steps: int) -> list[int]:
    """Return the `steps` + 1 indices, first and last included, whose path costs least."""
    n = len(cost)
    cost = np.where(np.triu(np.ones((n, n)), 1) > 0, cost, np.inf)
    best = cost[0]
    previous = []
    for _ in range(steps - 1):
        through = best[:, None] + cost
        previous.append(np.argmin(through, 0))
        best = np.min(through, 0)
    path = [n - 1]
    for came_from in reversed(previous):
        path.append(int(came_from[path[-1]]))
    return [0, *reversed(path)]


def _cheapest_by(cost: Callable[[Measured], np.ndarray]) -> Callable[[Measured, int], np.ndarray]:
    """Return the rule that takes the cheapest path."""
    return lambda walk, steps: np.log(walk.levels)[_cheapest(cost(walk), steps)]


# name -> (walk, steps) -> log levels (steps + 1,)
RULES: dict[str, Callable[[Measured, int], np.ndarray]] = {
    "speed": _speed,
    "step": _cheapest_by(_step_cost),
    "bound": _cheapest_by(_bound_cost),
}


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
    """Return times chosen for a denoiser by a walk through many candidates.

    It takes 3 x `candidates` + 1 evaluations. The grid starts where `grids.log_snr` does: at t = 1
    if the process leaves some signal there.

    Args:
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: noises of its prior (batch, ...).
        steps: how many steps the grid has.
        rule: how they are chosen, "speed", "step" or "bound".
        end: the last time.
        cond: conditions of the noises, handed to `denoise`.
        candidates: how many steps the accurate walk has. Heun's method takes two evaluations for
            each, and one more gives the estimate at each of the candidate levels.

    Returns:
        Times (steps + 1,) down to `end`.

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
    log_levels = RULES[rule](_measured(denoise, sde, x, ts, cond), steps)
    times = np.asarray(sde.time(-2 * jnp.asarray(log_levels)), np.float64)
    times[0], times[-1] = ts[0], end
    return times


def _measured(denoise, sde, x, ts, cond) -> Measured:
    """Walk `x` accurately through the candidate times `ts`.

    Raises:
        ValueError: the walk is not finite.
    """
    samples = sample(
        jax.random.key(0), Heun(), denoise, sde, ts, x, cond=cond, keep=None, denoise_last=False
    )
    assert samples.path is not None
    times = jnp.asarray(ts, x.dtype)
    x0 = jax.lax.map(lambda at: denoise(at[0], at[1], cond).x0, (samples.path, times))
    alpha, sigma = (np.asarray(a, np.float64) for a in sde.marginal(times))
    path, x0 = (np.asarray(a, np.float64).reshape(len(ts), len(x), -1) for a in (samples.path, x0))
    if not (np.isfinite(path).all() and np.isfinite(x0).all()):
        raise ValueError(
            "the walk that the grid is measured on is not finite; "
            "measure on noises of the prior, such as draw_prior gives, and check the denoiser"
        )
    return Measured(levels=sigma / alpha, x0=x0, y=path / alpha[:, None, None])
