r"""The stochastic half of `work_precision`: 50,000 samples beside the law that the grid ends in.

The problem is the mixture in the plane, under VP (t = 1 to 1e-3) and under EDM's process, which is
VE (sigma = 80 to 0). Distances are means over directions of one-dimensional ones between sorted
samples: sliced Wasserstein, :math:`(\frac1L \sum_l W_2^2)^{1/2}`, and the energy distance
:math:`2 E|X - Y| - E|X - X'| - E|Y - Y'|`, which in the plane is :math:`\pi / 2` times the mean of
the one-dimensional ones. The floor is what two sets of exact draws have. Where diffusers or
k-diffusion are installed (the extra `compare`), their samplers run beside ours, on the same exact
scores.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from samplers import (
    SEEDS,
    Ancestral,
    DPMpp2MSDE,
    DPMpp3MSDE,
    DPMppSDE,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    SASolver,
    draw_prior,
    recommended,
    sample,
)
from sde_lib import in_float64

from ..measures.two_samples import sliced_w2
from . import peers
from .problems import Problem, problems

NUMBER = 50_000  # samples
SEEDS_RUN = (0, 1, 2)
NFE = (20, 50, 100)
LINES = 32  # directions
GRIDS = ("uniform", "karras", "log_snr")  # of those that the problem has
SAMPLERS: dict[str, Sampler] = {
    "EulerMaruyama": EulerMaruyama(),
    "ReverseDiffusion": ReverseDiffusion(),
    "PredictorCorrector": PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16)),
    "Ancestral": Ancestral(),
    "DPMpp2MSDE": DPMpp2MSDE(),
    "DPMpp3MSDE": DPMpp3MSDE(),
    "DPMppSDE": DPMppSDE(),
    "SEEDS2": SEEDS(stages=2),
    "SASolver": SASolver(),
    "Heun, churn": Heun(churn=40.0, s_noise=1.003),
}
# Network calls a step, where there is more than one.
CALLS = {
    "PredictorCorrector": 2,
    "DPMppSDE": 2,
    "SEEDS2": 2,
    "Heun, churn": 2,
}


def distances(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the sliced Wasserstein and the energy distance of two sets (n, 2) in the plane."""
    angles = np.pi * (np.arange(LINES) + 0.5) / LINES
    lines = np.stack([np.cos(angles), np.sin(angles)], 1)
    energies = []
    for line in lines:
        a = x @ line
        b = y @ line
        both = np.concatenate([a, b])
        order = np.argsort(both, kind="stable")
        # The gap between the distribution functions, which jump at the points of a and of b.
        jumps = np.where(order < len(a), 1.0 / len(a), -1.0 / len(b))
        gap = np.cumsum(jumps)[:-1]
        energies.append(2 * np.sum(gap**2 * np.diff(both[order])))
    return sliced_w2(x, y, lines), float(np.pi / 2 * np.mean(energies))


def exact(problem: Problem, level: float, seed: int) -> np.ndarray:
    """Return exact draws of x / alpha at a noise level sigma / alpha."""
    data = problem.data
    rng = np.random.default_rng(seed)
    weights = np.asarray(data.weights, np.float64)
    component = rng.choice(len(weights), NUMBER, p=weights / np.sum(weights))
    scaled = np.sqrt(np.asarray(data.variances))[component] * rng.standard_normal((NUMBER, 2))
    turned = np.einsum("nij,nj->ni", np.asarray(data.bases)[component], scaled)
    clean = np.asarray(data.means)[component] + turned
    return clean + level * rng.standard_normal(clean.shape)


def ours(problem: Problem, sampler: Sampler, ts: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Return where the samples end, in x / alpha, and their network evaluations."""
    key = jax.random.key(seed)
    sde = problem.sde
    x = draw_prior(key, sde, (NUMBER, 2))
    samples = sample(key, sampler, problem.data.denoiser(sde), sde, ts, x, denoise_last=False)
    alpha, _ = in_float64(sde.marginal, ts[-1])
    return np.asarray(samples.x, np.float64) / float(alpha), int(samples.nfe)


def candidates(
    problem: Problem, nfe: int
) -> dict[tuple[str, str], Callable[[int], tuple[np.ndarray, int]]]:
    """Return every sampler and grid as a function of the seed, ours and theirs."""
    every: dict[tuple[str, str], Callable] = {}
    for name, sampler in SAMPLERS.items():
        for grid in (g for g in GRIDS if g in problem.grids):
            ts = problem.grids[grid](nfe // CALLS.get(name, 1))
            every[name, grid] = partial(ours, problem, sampler, ts)
    end = 1e-3
    if problem.ends_clean:
        end = float(in_float64(problem.sde.time, 2 * np.log(1 / 0.002)))
    choice = recommended(
        problem.sde,
        nfe,
        stochastic=True,
        denoise=problem.data.denoiser(problem.sde),
        end=end,
        denoise_last=problem.ends_clean,
    )
    ts = np.append(choice.ts, 0.0) if problem.ends_clean else choice.ts
    every["recommended", "its own"] = partial(ours, problem, choice.sampler, ts)
    return every | peers.stochastic(problem, nfe)


def measure_errors(nfe=NFE, seeds=SEEDS_RUN, only=("gmm2 VP", "gmm2 EDM")) -> list[dict]:
    """Return one record for each problem, sampler, grid and number of evaluations.

    Each holds means over the seeds and their standard deviations.
    """
    records = []
    for title, problem in problems(*only).items():
        level = 0.0
        if not problem.ends_clean:
            level = float(in_float64(problem.sde.noise_level, np.asarray(1e-3)))
        truth = exact(problem, level, 1000)
        floor = np.array([distances(exact(problem, level, 2000 + seed), truth) for seed in seeds])
        records.append(record(title, "floor", "", 0, 0, floor))
        for budget in nfe:
            for (name, grid), draw in candidates(problem, budget).items():
                runs = [draw(seed) for seed in seeds]
                values = np.array([distances(x, truth) for x, _ in runs])
                _, spent = runs[0]
                records.append(record(title, name, grid, budget, spent, values))
                print(
                    f"  {title}, {budget} evaluations, {name}, {grid}: "
                    f"{records[-1]['sliced_w2']:.4f}",
                    flush=True,
                )
    return records


def record(title: str, name: str, grid: str, budget: int, nfe: int, values: np.ndarray) -> dict:
    """Return the record of distances (seeds, 2)."""
    sliced_w2, energy = values.mean(0)
    sliced_w2_sd, energy_sd = values.std(0, ddof=1)
    return {
        "problem": title,
        "sampler": name,
        "grid": grid,
        "budget": budget,
        "nfe": nfe,
        "sliced_w2": float(sliced_w2),
        "sliced_w2_sd": float(sliced_w2_sd),
        "energy": float(energy),
        "energy_sd": float(energy_sd),
    }


def as_markdown(records: list[dict]) -> str:
    """Return Markdown tables of the best of ours, the best of theirs and the floor."""
    lines = []
    for title in dict.fromkeys(r["problem"] for r in records):
        own = [r for r in records if r["problem"] == title]
        floor = next(r for r in own if r["sampler"] == "floor")
        lines += [
            f"\n{title}; floor {floor['sliced_w2']:.4f} ± {floor['sliced_w2_sd']:.4f}, energy "
            f"{floor['energy']:.1e}\n",
            "| evaluations | whose | sampler, grid | sliced W2 | energy distance |",
            "|---|---|---|---|---|",
        ]
        for nfe in sorted({r["budget"] for r in own} - {0}):
            lines += _best_lines([r for r in own if r["budget"] == nfe])
    return "\n".join(lines)


def _best_lines(records: list[dict]) -> list[str]:
    """Return the lines of one problem and number of evaluations."""
    groups: dict[str, list[dict]] = {"recommended": [], "best of ours": [], "best of theirs": []}
    for r in records:
        if not np.isfinite(r["sliced_w2"]):
            continue
        if r["sampler"] == "recommended":
            groups["recommended"].append(r)
        elif ":" in r["sampler"]:
            groups["best of theirs"].append(r)
        else:
            groups["best of ours"].append(r)
    lines = []
    for whose, group in groups.items():
        if group:
            best = min(group, key=lambda r: r["sliced_w2"])
            lines.append(
                f"| {best['budget']} | {whose} | {best['sampler']}, {best['grid']} | "
                f"{best['sliced_w2']:.4f} ± {best['sliced_w2_sd']:.4f} | "
                f"{best['energy']:.1e} ± {best['energy_sd']:.0e} |"
            )
    return lines


def draw(records: list[dict], figure) -> None:
    """Draw the sliced Wasserstein distance of each sampler, and the floor, into a figure.

    Each sampler is on its best grid.
    """
    titles = list(dict.fromkeys(r["problem"] for r in records))
    panels = np.atleast_1d(figure.subplots(1, len(titles), sharey=True))
    for axes, title in zip(panels, titles, strict=True):
        mine = [r for r in records if r["problem"] == title]
        floor = next(r for r in mine if r["sampler"] == "floor")
        axes.axhspan(
            floor["sliced_w2"] - floor["sliced_w2_sd"],
            floor["sliced_w2"] + floor["sliced_w2_sd"],
            color="0.85",
            label="floor",
        )
        for name in dict.fromkeys(r["sampler"] for r in mine if r["sampler"] != "floor"):
            best = {}
            for r in (r for r in mine if r["sampler"] == name and np.isfinite(r["sliced_w2"])):
                best[r["nfe"]] = min(best.get(r["nfe"], r), r, key=lambda r: r["sliced_w2"])
            curve = [best[nfe] for nfe in sorted(best)]
            axes.errorbar(
                [r["nfe"] for r in curve],
                [r["sliced_w2"] for r in curve],
                [r["sliced_w2_sd"] for r in curve],
                fmt=".--" if ":" in name else ".-",
                label=name,
                linewidth=1,
            )
        axes.set(title=title, xlabel="network evaluations", xscale="log", yscale="log")
    figure.axes[0].set_ylabel("sliced W2")
    figure.axes[-1].legend(fontsize="x-small", ncols=2)
