"""How far `recommended` is behind the best sampler and grid in hindsight.

    python -m experiments.benchmarks.recommendation --seed=2 --out=recommendation.json
    python -m experiments.benchmarks.recommendation --published

The problems are random mixtures of standard deviation 0.1 to 10. Every mixture of
`mixtures.family(seed)` is walked under VP, VE, EDM's process and the rectified flow, in a size of
its own, from the same states of the prior at t = 1. The error of a setting is the median over the
states of the root mean square distance, over the dimensions, between what the walk returns after
its last denoising and the end of the flow at zero noise, from the state at t = 1. So different
starts and ends are compared by what they are for. All evaluations count. What is expected in x /
alpha depends on sigma / alpha alone, so that the steps are those of a single process, the quarter
circle, whatever the process was that chose the levels.

The settings beside it are every sampler of `SAMPLERS` on `grids.log_snr` and `grids.karras`, down
to t = 1e-3, as the grids do by themselves, and to noise levels of 0.1 and 0.3 standard deviations
over the evaluations. Seed 1 is for choosing, seed 2 was held out. Prints one table for each
process and one for all; writes every error as JSON.

With --published, on the mixtures of `problems` beside the best of 23 settings of diffusers 0.42,
k-diffusion and dpm-solver on the grids of their papers: VP down to t = 1e-3 without denoising,
EDM's process down to zero noise.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from samplers import (
    DEIS,
    DPMpp2M,
    Sampler,
    SASolver,
    UniPC,
    grids,
    recommended,
)
from sde_lib import EDM, SDE, VE, VP, Cosine, Estimate, Rectified, in_float64

from ..storage.writing import write_json
from .deterministic import error
from .mixtures import SIZES, Mixture, family, flow_end
from .problems import Problem, problems

NFE = (5, 8, 10, 15, 20, 30, 50, 100)
STATES = 48
PROCESSES: dict[str, SDE] = {"VP": VP(), "VE": VE(), "EDM": EDM(), "Rectified": Rectified()}
SAMPLERS: dict[str, Sampler] = {
    "DPMpp2M": DPMpp2M(),
    "DEIS3": DEIS(order=3),
    "DEIS4": DEIS(order=4),
    "UniPC2": UniPC(predictor_order=2),
    "UniPC3": UniPC(predictor_order=3),
    "SA3": SASolver(predictor_steps=3, corrector_steps=3, tau=0.0),
    "SA4": SASolver(predictor_steps=4, corrector_steps=4, tau=0.0),
}
CIRCLE = Cosine(s=0.0)  # sigma / alpha is the tangent of the angle t
PLAIN = ("DPMpp2M", "DEIS3")  # what everybody knows
PUBLISHED = {  # the smallest median error, for each of NFE
    "gmm2 VP": (2.2e-2, 8.0e-3, 3.4e-3, 8.9e-4, 5.2e-4, 1.6e-4, 3.8e-5, 5.8e-6),
    "gmm64 VP": (2.4e-2, 1.0e-2, 4.2e-3, 9.8e-4, 7.1e-4, 1.7e-4, 5.2e-5, 8.8e-6),
    "gmm2 EDM": (6.4e-2, 3.2e-2, 2.3e-2, 9.0e-3, 4.5e-3, 1.3e-3, 1.2e-4, 2.6e-5),
    "gmm64 EDM": (6.2e-2, 3.2e-2, 1.7e-2, 7.5e-3, 2.8e-3, 6.4e-4, 1.1e-4, 2.8e-5),
}


def settings(sde: SDE, nfe: int, size: float) -> dict[str, tuple[Sampler, np.ndarray]]:
    """Return every sampler and its noise levels sigma / alpha (nfe,) by name.

    "recommended" is one of them.
    """
    choice = recommended(sde, nfe, sd=size)
    every = {"recommended": (choice.sampler, levels(sde, choice.ts))}
    ends = {"t = 1e-3": max(1e-3, sde.t_min)}
    for part in (0.1, 0.3):
        time = in_float64(sde.time, np.asarray(-2 * np.log(part * size / nfe)))
        ends[f"{part} / n"] = max(float(time), sde.t_min)
    for grid in (grids.log_snr, grids.karras):
        for title, end in ends.items():
            chosen = levels(sde, grid(sde, nfe - 1, end=end, sd=size))
            for name, sampler in SAMPLERS.items():
                every[f"{name}, {grid.__name__} to {title}"] = (sampler, chosen)
    return every


def levels(sde: SDE, ts: np.ndarray) -> np.ndarray:
    """Return sigma / alpha at the times of a grid, infinite where there is no signal."""
    alpha, sigma = in_float64(sde.marginal, ts)
    with np.errstate(divide="ignore"):
        return sigma / alpha


class Planned(NamedTuple):
    """A sampler and what it does on a grid under `CIRCLE`."""

    sampler: Sampler
    plan: Any  # its coefficients
    angles: np.ndarray  # (nfe,) in units of a right angle


def planned(chosen: dict[str, tuple[Sampler, np.ndarray]]) -> dict[str, Planned]:
    """Return the plan of each sampler with its noise levels, by name.

    One program for each sampler plans all its grids.
    """
    every = {}
    for sampler in {sampler: None for sampler, _ in chosen.values()}:
        names = [name for name, (other, _) in chosen.items() if other == sampler]
        with np.errstate(invalid="ignore"):
            angles = np.stack([2 / np.pi * np.arctan(chosen[name][1]) for name in names])
        with jax.enable_x64(True):
            plans = jax.jit(jax.vmap(partial(sampler.plan, CIRCLE)))(angles)
        for i, name in enumerate(names):
            plan = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), plans)
            every[name] = Planned(sampler=sampler, plan=plan, angles=angles[i])
    return every


def walk(mixture: Mixture, sampler: Sampler, plan: Any, angles: np.ndarray, x: Any) -> np.ndarray:
    """Return what a deterministic sampler of one call a step makes of `x`, denoised at the end.

    All of it is computed in NumPy.
    """

    def denoise(x, t, cond=None):
        alpha = np.sin(np.pi / 2 * (1 - float(t)))
        sigma = np.sin(np.pi / 2 * float(t))
        estimate: Any = mixture.estimate(x, alpha, sigma)
        return Estimate(*estimate)

    no_keys: Any = None
    memory: Any = tuple(np.zeros_like(x) for _ in jax.eval_shape(sampler.init, x))
    for i in range(len(angles) - 1):
        coefficients = type(plan)(*(leaf[i] for leaf in plan))
        x, memory = sampler.step(no_keys, denoise, x, coefficients, memory, None)
    return np.asarray(denoise(x, angles[-1]).x0)


class Case(NamedTuple):
    """A mixture under a process."""

    title: str
    process: str
    size: float  # standard deviation of the data
    mixture: Mixture
    x: np.ndarray  # (STATES, d) starts, scaled to the circle
    end: np.ndarray  # (STATES, d) where the flow takes them


def cases_of(seed: int, count: int) -> list[Case]:
    """Return `count` mixtures of a family, each under every process."""
    cases = []
    for number, (title, unit) in enumerate(family(seed, count).items()):
        noise = np.random.default_rng([seed, number]).standard_normal((STATES, unit.means.shape[1]))
        for place, (process, sde) in enumerate(PROCESSES.items()):
            size = SIZES[(number + place) % len(SIZES)]
            mixture = unit.scaled(size)
            alpha, sigma = (float(a) for a in in_float64(sde.marginal, np.asarray(1.0)))
            x = float(sde.prior_std()) * noise
            cases.append(
                Case(
                    title=title,
                    process=process,
                    size=size,
                    mixture=mixture,
                    x=x / np.hypot(alpha, sigma),
                    end=flow_end(mixture, x, alpha, sigma),
                )
            )
    return cases


def measure_errors(seed: int, budgets: tuple[int, ...], count: int = 12) -> list[dict]:
    """Return one record for each mixture, process and budget.

    Errors are in standard deviations of the data.
    """
    cases = cases_of(seed, count)
    records = []
    for nfe in budgets:
        chosen = {}
        for process, size in {(case.process, case.size): None for case in cases}:
            for name, setting in settings(PROCESSES[process], nfe, size).items():
                chosen[process, size, name] = setting
        plans = planned(chosen)
        for case in cases:
            errors = {}
            for (process, size, name), plan in plans.items():
                if (process, size) == (case.process, case.size):
                    errors[name] = _error(case, plan)
            records.append(
                {
                    "mixture": case.title,
                    "process": case.process,
                    "size": case.size,
                    "nfe": nfe,
                    "errors": errors,
                }
            )
        print(f"  {nfe} evaluations done", flush=True)
    return records


def _error(case: Case, plan: Planned) -> float:
    """Return the median root mean square distance to the ends, in standard deviations of the data."""
    distance = walk(case.mixture, *plan, case.x) - case.end
    return float(np.median(np.sqrt(np.mean(distance**2, -1)))) / float(case.size)


def summary(records: list[dict]) -> dict[str, float]:
    """Return the ratios of one budget.

    They are those to the best single setting in hindsight, to each problem's own best, and to the
    plain ones.
    """
    others = [name for name in records[0]["errors"] if name != "recommended"]
    plain = [name for name in others if name.startswith(PLAIN)]
    mine = np.log([record["errors"]["recommended"] for record in records])
    theirs = np.log([[record["errors"][name] for name in others] for record in records])
    best = theirs.min(1)
    known = np.log([[record["errors"][name] for name in plain] for record in records]).min(1)
    single = theirs.mean(0)
    return {
        "problems": len(records),
        "single": float(np.exp(mine.mean() - single.min())),
        "own_mean": float(np.exp((mine - best).mean())),
        "own_median": float(np.exp(np.median(mine - best))),
        "own_worst": float(np.exp((mine - best).max())),
        "plain_worst": float(np.exp((mine - known).max())),
        "best_single": others[int(single.argmin())],
    }


def as_markdown(records: list[dict]) -> str:
    """Return the ratios as a Markdown table, one line a budget."""
    lines = [
        "| evaluations | to the best single setting, geometric mean | to each problem's own best: "
        "geometric mean, median, worst | to the better of plain DPM-Solver++(2M) and DEIS(3), "
        "worst | best single setting |",
        "|---|---|---|---|---|",
    ]
    for nfe in sorted({record["nfe"] for record in records}):
        s = summary([record for record in records if record["nfe"] == nfe])
        lines.append(
            f"| {nfe} | {s['single']:.2f} | {s['own_mean']:.2f}, {s['own_median']:.2f}, "
            f"{s['own_worst']:.2f} | {s['plain_worst']:.2f} | {s['best_single']} |"
        )
    return "\n".join(lines)


def on_published_problems() -> str:
    """Return a Markdown table of what `recommended` reaches on the older problems.

    The best of the peers stands beside it.
    """
    lines = [
        "| | " + " | ".join(map(str, NFE)) + " |",
        "|---" * (1 + len(NFE)) + "|",
    ]
    with jax.enable_x64(True):
        for title, problem in problems(*PUBLISHED).items():
            ours = " | ".join(f"{published_error(problem, nfe):.1e}" for nfe in NFE)
            theirs = " | ".join(f"{error:.1e}" for error in PUBLISHED[title])
            lines.append(f"| {title}: recommended | {ours} |")
            lines.append(f"| {title}: the best of theirs | {theirs} |")
    return "\n".join(lines)


def published_error(problem: Problem, nfe: int) -> float:
    """Return the error of what is recommended on one of the older problems."""
    denoise = problem.data.denoiser(problem.sde)
    if not problem.ends_clean:
        choice = recommended(problem.sde, nfe, denoise=denoise, end=1e-3, denoise_last=False)
        return error(choice.sampler, problem, choice.ts)
    choice = recommended(problem.sde, nfe, denoise=denoise)
    return error(choice.sampler, problem, np.append(choice.ts, 0.0))


def main(seed: int, count: int, budgets: tuple[int, ...], out: Path | None) -> None:
    """Measure a family of mixtures, print the tables, and write every error to `out`."""
    records = measure_errors(seed, budgets, count)
    for process in PROCESSES:
        chosen = [record for record in records if record["process"] == process]
        print(f"\n{process}, seed {seed}\n\n{as_markdown(chosen)}")
    print(f"\nall, seed {seed}\n\n{as_markdown(records)}")
    if out is not None:
        write_json(out, records)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=2, help="of the family of mixtures")
    parser.add_argument("--count", type=int, default=12, help="of mixtures")
    parser.add_argument("--nfe", type=int, nargs="+", default=NFE, help="budgets")
    parser.add_argument("--out", type=Path, help="where every error goes, as JSON")
    parser.add_argument("--published", action="store_true", help="the older problems instead")
    arguments = parser.parse_args()
    if arguments.published:
        print(on_published_problems())
    else:
        main(arguments.seed, arguments.count, tuple(arguments.nfe), arguments.out)
