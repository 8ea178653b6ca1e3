"""Error against network evaluations of every deterministic sampler on every grid, where the end of the probability flow is known.

    python -m experiments.benchmarks.work_precision --out=work_precision.json

Two Gaussian mixtures, in 2 and in 64 dimensions (tests/fixtures/README.md), whose scores are exact, so that the only error is the
sampler's; float64. Each problem starts from 512 given noises, under VP (t = 1 to 1e-3) and under EDM's process (sigma = 80 to 0), and
`error` is the median over them of the root mean square, over dimensions, of the distance to the exact end in x / alpha. Writes JSON and,
beside it, a picture; prints the best sampler of each problem, start and number of evaluations.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

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
    grids,
)
from sde_lib import EDM, SDE, VP, Estimate, GaussianMixture, in_float64

from ..writing import write_json

PROBLEMS = Path(__file__).parents[2] / "tests" / "fixtures" / "gmm_problem.npz"
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
    "UniPC2": UniPC(p=2),
    "UniPC3": UniPC(p=3),
    "SA3": SASolver(tau=0.0),
}
CALLS = {"Heun": 2, "DPM2": 2, "DPMSolver2": 2, "DPMSolver3": 3, "DPMpp2S": 2, "DPMpp3S": 3}  # network calls a step, else 1


class Problem(NamedTuple):
    """A start, and where the exact flow takes it."""

    data: GaussianMixture
    sde: SDE
    x: np.ndarray  # (512, d)
    y: np.ndarray  # (512, d), the end in x / alpha
    grids: dict[str, Callable]  # name -> (steps) -> times


def problems(*only: str) -> dict[str, Problem]:
    """Return every problem under either start, or those asked for."""
    found = {}
    with np.load(PROBLEMS) as file:
        for name in ("gmm2", "gmm64"):
            part = {key: file[f"{name}/{key}"] for key in ("weights", "means", "U", "sd", "z", "yref_vp_teps", "yref_edm_0")}
            covs = np.einsum("kij,kj,klj->kil", part["U"], part["sd"] ** 2, part["U"])
            data = GaussianMixture(part["weights"], part["means"], covs)
            found[f"{name} VP"] = Problem(data, VP(), part["z"], part["yref_vp_teps"], from_one(VP()))
            found[f"{name} EDM"] = Problem(data, EDM(t_min=0.0), 80 * part["z"], part["yref_edm_0"], to_zero(EDM(t_min=0.0)))
    return {title: found[title] for title in only or found}


def from_one(sde: SDE) -> dict[str, Callable]:
    """Return the grids from t = 1 to 1e-3."""
    return {grid.__name__: partial(grid, sde) for grid in (grids.uniform, grids.quadratic, grids.log_snr, grids.centred, grids.karras)}


def to_zero(sde: SDE) -> dict[str, Callable]:
    """Return the grids from sigma = 80 to 0.002 in n - 1 steps, then to 0."""

    def ended(grid):
        return lambda n: np.append(grid(sde, n - 1, end=0.002 / 80), 0.0)

    return {grid.__name__: ended(grid) for grid in (grids.karras, grids.log_snr)}


def end(sampler: Sampler, problem: Problem, ts: np.ndarray) -> np.ndarray:
    """Return where the sampler ends, in x / alpha, by its steps in NumPy with the compiled exact estimate."""
    rows = in_float64(sampler.plan, problem.sde, ts)
    x: Any = problem.x
    memory: Any = jax.tree.map(lambda a: np.zeros(a.shape), jax.eval_shape(sampler.init, x))

    def denoise(x, t, cond):
        x0, noise = problem.data.estimate(problem.sde, jnp.asarray(x), np.asarray(t))
        return Estimate(cast(Any, np.asarray(x0)), cast(Any, np.asarray(noise)))

    for i in range(len(ts) - 1):
        row = jax.tree.map(lambda c, i=i: c[i], rows)
        x, memory = sampler.step(jax.random.key(0)[None][:0], denoise, x, row, memory, None)
    return np.asarray(x) / in_float64(problem.sde.marginal, ts[-1])[0]


def error(sampler: Sampler, problem: Problem, ts: np.ndarray) -> float:
    """Return the median over the starts of the root mean square distance to the exact end."""
    return float(np.median(np.sqrt(np.mean((end(sampler, problem, ts) - problem.y) ** 2, 1))))


def measure(names=tuple(SAMPLERS), nfe=NFE, only=()) -> list[dict]:
    """Return one record for each problem, grid, sampler and number of evaluations."""
    records = []
    with jax.enable_x64(True):
        for title, problem in problems(*only).items():
            for grid, make in problem.grids.items():
                for budget in nfe:
                    for name in names:
                        steps, rest = divmod(budget, CALLS.get(name, 1))
                        if not rest:
                            value = error(SAMPLERS[name], problem, make(steps))
                            records.append({"problem": title, "grid": grid, "sampler": name, "nfe": budget, "error": value})
    return records


def best(records: list[dict]) -> dict[tuple[str, int], dict]:
    """Return the record with the smallest error of each problem and number of evaluations."""
    found: dict[tuple[str, int], dict] = {}
    for record in records:
        key = record["problem"], record["nfe"]
        if key not in found or record["error"] < found[key]["error"]:
            found[key] = record
    return found


def table(records: list[dict]) -> str:
    """Return, as Markdown, the best of each problem and number of evaluations."""
    winners, budgets = best(records), sorted({r["nfe"] for r in records})
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (1 + len(budgets)) + "|"]
    for problem in dict.fromkeys(r["problem"] for r in records):
        cells = (winners[problem, nfe] for nfe in budgets)
        lines.append(f"| {problem} | " + " | ".join(f"{c['error']:.1e} {c['sampler']}, {c['grid']}" for c in cells) + " |")
    return "\n".join(lines)


def draw(records: list[dict], path: Path) -> None:
    """Draw the error of each sampler on its best grid against the evaluations."""
    titles = list(dict.fromkeys(r["problem"] for r in records))
    figure = Figure(figsize=(5 * len(titles), 4.5), layout="constrained")
    for axes, title in zip(np.atleast_1d(figure.subplots(1, len(titles), sharey=True)), titles, strict=True):
        for name in dict.fromkeys(r["sampler"] for r in records):
            curve = sorted(best([r for r in records if r["problem"] == title and r["sampler"] == name]).items())
            axes.loglog([nfe for (_, nfe), _ in curve], [r["error"] for _, r in curve], ".-", label=name, linewidth=1)
        axes.set(title=title, xlabel="network evaluations")
    figure.axes[0].set_ylabel("median error")
    figure.axes[-1].legend(fontsize="x-small", ncols=2)
    figure.savefig(path)


def main(out: Path | None = None, names=tuple(SAMPLERS), nfe=NFE, only=()) -> None:
    """Measure, print and, if `out` is given, write."""
    records = measure(names, nfe, only)
    print("Median error at the end of the flow, best sampler and grid at each number of network evaluations\n")
    print(table(records))
    if out:
        write_json(out, records)
        draw(records, out.with_suffix(".png"))


def short() -> None:
    """Run the few samplers and evaluations of `make bench`."""
    main(names=("DDIM", "Heun", "DPMpp2M", "DEIS3", "UniPC3"), nfe=(10, 20, 50), only=("gmm2 VP", "gmm2 EDM"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("work_precision.json"))
    main(parser.parse_args().out)
