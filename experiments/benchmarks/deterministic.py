"""The deterministic half of `work_precision`: every sampler on every grid.

The end of the flow is known. The scores are exact, so that the only error is the sampler's;
float64. `error` is the median over the 512 starts of the root mean square, over dimensions, of the
distance to the exact end in x / alpha.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from samplers import (
    DDIM,
    DEIS,
    DPM2,
    LMS,
    AdamsBashforth,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMpp3S,
    DPMSolver,
    DPMSolverM,
    Heun,
    Sampler,
    SASolver,
    UniPC,
)
from sde_lib import Estimate, in_float64

from .problems import Problem, problems

NFE = (5, 8, 10, 15, 20, 30, 50, 100)
SAMPLERS: dict[str, Sampler] = {
    "DDIM": DDIM(),
    "Heun": Heun(),
    "DPM2": DPM2(),
    "DPMSolver2": DPMSolver(order=2),
    "DPMSolver3": DPMSolver(order=3),
    "DPMSolverM2": DPMSolverM(steps=2),
    "DPMSolverM3": DPMSolverM(steps=3),
    "DPMpp2S": DPMpp2S(),
    "DPMpp3S": DPMpp3S(),
    "DPMpp2M": DPMpp2M(),
    "DPMpp3M": DPMpp3M(),
    "DEIS2": DEIS(order=2),
    "DEIS3": DEIS(order=3),
    "DEIS4": DEIS(order=4),
    "tAB3": DEIS(order=3, variable="t"),
    "LMS4": LMS(),
    "vAB2": AdamsBashforth(order=2),
    "vAB3": AdamsBashforth(order=3),
    "vAB4": AdamsBashforth(order=4),
    "UniPC2": UniPC(predictor_order=2),
    "UniPC3": UniPC(predictor_order=3),
    "SA3": SASolver(tau=0.0),
}
# Network calls a step, where there is more than one.
CALLS = {
    "Heun": 2,
    "DPM2": 2,
    "DPMSolver2": 2,
    "DPMSolver3": 3,
    "DPMpp2S": 2,
    "DPMpp3S": 3,
}


def end(sampler: Sampler, problem: Problem, ts: np.ndarray) -> np.ndarray:
    """Return where the sampler ends, in x / alpha (512, d).

    Its steps are made in NumPy, with the compiled exact estimate.
    """
    plan = in_float64(sampler.plan, problem.sde, ts)
    x: Any = problem.x
    memory: Any = jax.tree.map(lambda a: np.zeros(a.shape), jax.eval_shape(sampler.init, x))

    def denoise(x, t, cond):
        x0, noise = problem.data.estimate(problem.sde, jnp.asarray(x), np.asarray(t))
        return Estimate(cast(Any, np.asarray(x0)), cast(Any, np.asarray(noise)))

    for i in range(len(ts) - 1):
        coefficients = jax.tree.map(lambda c, i=i: c[i], plan)
        no_keys = jax.random.key(0)[None][:0]
        x, memory = sampler.step(no_keys, denoise, x, coefficients, memory, None)
    return np.asarray(x) / in_float64(problem.sde.marginal, ts[-1])[0]


def error(sampler: Sampler, problem: Problem, ts: np.ndarray) -> float:
    """Return the median over the starts of the root mean square distance to the exact end."""
    distances = np.sqrt(np.mean((end(sampler, problem, ts) - problem.y) ** 2, 1))
    return float(np.median(distances))


def measure_errors(names=tuple(SAMPLERS), nfe=NFE, only=()) -> list[dict]:
    """Return one record for each problem, grid, sampler and number of evaluations.

    `only` names the problems; none of them stands for all.
    """
    with jax.enable_x64(True):
        return [
            record
            for title, problem in problems(*only).items()
            for grid in problem.grids
            for budget in nfe
            for record in _records(title, problem, grid, budget, names)
        ]


def _records(title: str, problem: Problem, grid: str, budget: int, names) -> list[dict]:
    """Return the records of the samplers that can spend exactly `budget` evaluations."""
    records = []
    for name in names:
        steps, rest = divmod(budget, CALLS.get(name, 1))
        if not rest:
            records.append(
                {
                    "problem": title,
                    "grid": grid,
                    "sampler": name,
                    "nfe": budget,
                    "error": error(SAMPLERS[name], problem, problem.grids[grid](steps)),
                }
            )
    return records


def best(records: list[dict]) -> dict[tuple[str, int], dict]:
    """Return the record with the smallest error of each problem and number of evaluations."""
    winners: dict[tuple[str, int], dict] = {}
    for record in records:
        key = (record["problem"], record["nfe"])
        if key not in winners or record["error"] < winners[key]["error"]:
            winners[key] = record
    return winners


def as_markdown(records: list[dict]) -> str:
    """Return a Markdown table of the best of each problem and number of evaluations."""
    winners = best(records)
    budgets = sorted({r["nfe"] for r in records})
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (1 + len(budgets)) + "|"]
    for problem in dict.fromkeys(r["problem"] for r in records):
        cells = []
        for nfe in budgets:
            winner = winners[problem, nfe]
            cells.append(f"{winner['error']:.1e} {winner['sampler']}, {winner['grid']}")
        lines.append(f"| {problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(records: list[dict], figure: Figure) -> None:
    """Draw the error of each sampler on its best grid against the evaluations into a figure."""
    titles = list(dict.fromkeys(r["problem"] for r in records))
    panels = np.atleast_1d(figure.subplots(1, len(titles), sharey=True))
    for axes, title in zip(panels, titles, strict=True):
        for name in dict.fromkeys(r["sampler"] for r in records):
            own = [r for r in records if r["problem"] == title and r["sampler"] == name]
            curve = sorted(best(own).values(), key=lambda r: r["nfe"])
            nfe = [r["nfe"] for r in curve]
            errors = [r["error"] for r in curve]
            axes.loglog(nfe, errors, ".-", label=name, linewidth=1)
        axes.set(title=title, xlabel="network evaluations")
    figure.axes[0].set_ylabel("median error")
    figure.axes[-1].legend(fontsize="x-small", ncols=2)
