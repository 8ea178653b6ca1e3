r"""The stochastic half of `work_precision`: how far 50,000 samples are from the law that the grid ends in.

The problem is the mixture in the plane, under VP (t = 1 to 1e-3) and under EDM's process, which is VE (sigma = 80 to 0). Distances are
means over directions of one-dimensional ones between sorted samples: sliced Wasserstein,
:math:`(\frac1L \sum_l W_2^2)^{1/2}`, and the energy distance :math:`2 E|X - Y| - E|X - X'| - E|Y - Y'|`, which in the plane is
:math:`\pi / 2` times the mean of the one-dimensional ones. The floor is what two sets of exact draws have. Where diffusers or k-diffusion
are installed (the extra `compare`), their samplers run beside ours, on the same exact scores.
"""

from collections.abc import Callable

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

from . import peers
from .problems import Problem, problems

NUMBER, SEEDS_RUN, NFE, LINES = 50_000, (0, 1, 2), (20, 50, 100), 32
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
CALLS = {
    "PredictorCorrector": 2,
    "DPMppSDE": 2,
    "SEEDS2": 2,
    "Heun, churn": 2,
}  # network calls a step, else 1


def distances(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the sliced Wasserstein distance and the energy distance of two sets (n, 2) in the plane."""
    angles = np.pi * (np.arange(LINES) + 0.5) / LINES
    squares, energies = [], []
    for line in np.stack([np.cos(angles), np.sin(angles)], 1):
        a, b = np.sort(x @ line), np.sort(y @ line)
        squares.append(np.mean((a - b) ** 2))
        both = np.concatenate([a, b])
        order = np.argsort(both, kind="stable")
        gap = np.cumsum(np.where(order < len(a), 1.0 / len(a), -1.0 / len(b)))[
            :-1
        ]  # between the distribution functions
        energies.append(2 * np.sum(gap**2 * np.diff(both[order])))
    return float(np.sqrt(np.mean(squares))), float(np.pi / 2 * np.mean(energies))


def exact(problem: Problem, level: float, seed: int) -> np.ndarray:
    """Return exact draws of x / alpha at a noise level sigma / alpha."""
    data, rng = problem.data, np.random.default_rng(seed)
    which = rng.choice(
        len(data.weights),
        NUMBER,
        p=np.asarray(data.weights, np.float64) / np.sum(np.asarray(data.weights, np.float64)),
    )
    scaled = np.sqrt(np.asarray(data.variances))[which] * rng.standard_normal((NUMBER, 2))
    clean = np.asarray(data.means)[which] + np.einsum(
        "nij,nj->ni", np.asarray(data.bases)[which], scaled
    )
    return clean + level * rng.standard_normal(clean.shape)


def ours(problem: Problem, sampler: Sampler, ts: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Return where the samples end, in x / alpha, and their network evaluations."""
    key, sde = jax.random.key(seed), problem.sde
    x = draw_prior(key, sde, (NUMBER, 2))
    drawn = sample(key, sampler, problem.data.denoiser(sde), sde, ts, x, denoise_last=False)
    return np.asarray(drawn.x, np.float64) / float(in_float64(sde.marginal, ts[-1])[0]), int(
        drawn.nfe
    )


def candidates(
    problem: Problem, nfe: int
) -> dict[tuple[str, str], Callable[[int], tuple[np.ndarray, int]]]:
    """Return every sampler and grid as a function of the seed, ours and theirs."""
    found: dict[tuple[str, str], Callable] = {}
    for name, sampler in SAMPLERS.items():
        for grid in (g for g in GRIDS if g in problem.grids):
            ts = problem.grids[grid](nfe // CALLS.get(name, 1))
            found[name, grid] = lambda seed, s=sampler, ts=ts: ours(problem, s, ts, seed)
    end = float(in_float64(problem.sde.time, 2 * np.log(1 / 0.002))) if problem.ends_clean else 1e-3
    choice = recommended(
        problem.sde,
        nfe,
        stochastic=True,
        denoise=problem.data.denoiser(problem.sde),
        end=end,
        denoise_last=problem.ends_clean,
    )
    ts = np.append(choice.ts, 0.0) if problem.ends_clean else choice.ts
    found["recommended", "its own"] = lambda seed: ours(problem, choice.sampler, ts, seed)
    return found | peers.stochastic(problem, nfe)


def measure(nfe=NFE, seeds=SEEDS_RUN, only=("gmm2 VP", "gmm2 EDM")) -> list[dict]:
    """Return one record for each problem, sampler, grid and number of evaluations: means over the seeds and their standard deviations."""
    records = []
    for title, problem in problems(*only).items():
        level = (
            0.0
            if problem.ends_clean
            else float(in_float64(problem.sde.noise_level, np.asarray(1e-3)))
        )
        truth = exact(problem, level, 1000)
        floor = np.array([distances(exact(problem, level, 2000 + seed), truth) for seed in seeds])
        records.append(record(title, "floor", "", 0, 0, floor))
        for budget in nfe:
            for (name, grid), draw in candidates(problem, budget).items():
                drawn = [draw(seed) for seed in seeds]
                records.append(
                    record(
                        title,
                        name,
                        grid,
                        budget,
                        drawn[0][1],
                        np.array([distances(x, truth) for x, _ in drawn]),
                    )
                )
                print(
                    f"  {title}, {budget} evaluations, {name}, {grid}: {records[-1]['sliced_w2']:.4f}",
                    flush=True,
                )
    return records


def record(title: str, name: str, grid: str, budget: int, nfe: int, values: np.ndarray) -> dict:
    """Return the record of distances (seeds, 2)."""
    (w2, energy), (w2_sd, energy_sd) = values.mean(0), values.std(0, ddof=1)
    found = {
        "problem": title,
        "sampler": name,
        "grid": grid,
        "budget": budget,
        "nfe": nfe,
        "sliced_w2": w2,
        "sliced_w2_sd": w2_sd,
    }
    return {
        k: v if isinstance(v, str | int) else float(v)
        for k, v in (found | {"energy": energy, "energy_sd": energy_sd}).items()
    }


def table(records: list[dict]) -> str:
    """Return, as Markdown, the best of ours, the best of theirs and the floor."""
    lines = []
    for title in dict.fromkeys(r["problem"] for r in records):
        mine = [r for r in records if r["problem"] == title]
        floor = next(r for r in mine if r["sampler"] == "floor")
        lines.append(
            f"\n{title}; floor {floor['sliced_w2']:.4f} ± {floor['sliced_w2_sd']:.4f}, energy {floor['energy']:.1e}\n"
        )
        lines += [
            "| evaluations | whose | sampler, grid | sliced W2 | energy distance |",
            "|---|---|---|---|---|",
        ]
        for nfe in sorted({r["budget"] for r in mine} - {0}):
            for whose, picked in {
                "recommended": lambda r: r["sampler"] == "recommended",
                "best of ours": lambda r: ":" not in r["sampler"] and r["sampler"] != "recommended",
                "best of theirs": lambda r: ":" in r["sampler"],
            }.items():
                if at := [
                    r
                    for r in mine
                    if r["budget"] == nfe and picked(r) and np.isfinite(r["sliced_w2"])
                ]:
                    b = min(at, key=lambda r: r["sliced_w2"])
                    lines.append(
                        f"| {nfe} | {whose} | {b['sampler']}, {b['grid']} | {b['sliced_w2']:.4f} ± {b['sliced_w2_sd']:.4f} "
                        f"| {b['energy']:.1e} ± {b['energy_sd']:.0e} |"
                    )
    return "\n".join(lines)


def draw(records: list[dict], figure) -> None:
    """Draw the sliced Wasserstein distance of each sampler on its best grid, and the floor, into a figure."""
    titles = list(dict.fromkeys(r["problem"] for r in records))
    for axes, title in zip(
        np.atleast_1d(figure.subplots(1, len(titles), sharey=True)), titles, strict=True
    ):
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
            curve = sorted(best.items())
            value, spread = np.array([(r["sliced_w2"], r["sliced_w2_sd"]) for _, r in curve]).T
            axes.errorbar(
                [n for n, _ in curve],
                value,
                spread,
                fmt=".--" if ":" in name else ".-",
                label=name,
                linewidth=1,
            )
        axes.set(title=title, xlabel="network evaluations", xscale="log", yscale="log")
    figure.axes[0].set_ylabel("sliced W2")
    figure.axes[-1].legend(fontsize="x-small", ncols=2)
