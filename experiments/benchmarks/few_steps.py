"""Learned grids and solvers beside the best published ones, on problems whose exact ends are known.

    python -m experiments.benchmarks.few_steps --out=few_steps.json

For each mixture of `problems` and 5, 8 and 10 evaluations: `fit_grid` (with DPM-Solver++(2M)) and
`fit_solver` learn on 128 noises of their own, half of them held out; the error is that of the 512
noises of the problem. "published" is the least of 23 settings of diffusers 0.42, k-diffusion and
dpm-solver over the grids of their papers; "recommended" is ours without learning.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from samplers import DPMpp2M, draw_prior, fit_grid, fit_solver, recommended, sample

from ..run.devices import set_up_jax
from ..storage.writing import write_json
from .problems import Problem, problems

NFE = (5, 8, 10)
PUBLISHED = {
    "gmm2 VP": (2.2e-2, 8.0e-3, 3.4e-3),
    "gmm64 VP": (2.4e-2, 1.0e-2, 4.2e-3),
    "gmm2 EDM": (6.4e-2, 3.2e-2, 2.3e-2),
    "gmm64 EDM": (6.2e-2, 3.2e-2, 1.7e-2),
}


def median_error(problem: Problem, ends, end: float | None) -> float:
    """Return the median distance of `ends` from the exact ends, in x / alpha."""
    alpha = 1.0 if end is None else float(problem.sde.marginal(jnp.asarray(end))[0])
    distances = np.asarray(ends, np.float64) / alpha - problem.y
    return float(np.median(np.sqrt(np.mean(distances**2, -1))))


def compare_ways(name: str, problem: Problem, nfe: int) -> dict:
    """Fit both for one problem and budget; return errors and seconds, compilation included."""
    sde = problem.sde
    denoise = problem.data.denoiser(sde)
    start = jnp.asarray(problem.x, jnp.float32)
    end = 1e-3 if name.endswith("VP") else None
    x = draw_prior(jax.random.key(1), sde, (128, start.shape[1]))
    key = jax.random.key(0)
    row: dict = {"problem": name, "nfe": nfe, "published": PUBLISHED[name][NFE.index(nfe)]}

    def walked(sampler, ts, denoise_last=False):
        return sample(key, sampler, denoise, sde, ts, start, denoise_last=denoise_last).x

    choice = recommended(sde, nfe, denoise=denoise, end=end, denoise_last=end is None)
    row["recommended"] = median_error(problem, walked(*choice, end is None), end)
    before = time.perf_counter()
    steps, last = nfe, 1e-3
    if end is None:  # one evaluation denoises at the end
        steps, last = nfe - 1, 0.1 / nfe / 80
    grid = fit_grid(DPMpp2M(), denoise, sde, x, steps, end=last, denoise_last=end is None).result
    row |= {
        "fit_grid": median_error(problem, walked(DPMpp2M(), grid, end is None), end),
        "grid_seconds": time.perf_counter() - before,
    }
    before = time.perf_counter()
    solver = fit_solver(denoise, sde, x, nfe, end=end).result
    row |= {
        "fit_solver": median_error(problem, solver(denoise, sde, start).x, end),
        "solver_seconds": time.perf_counter() - before,
    }
    return row


def main(out: Path | None = None) -> None:
    """Compare the ways on all problems and print; `out`: where to write the rows as JSON."""
    set_up_jax()
    rows = []
    print(
        "| problem | NFE | published | recommended | fit_grid | fit_solver | seconds "
        "|\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name, problem in problems(*PUBLISHED).items():
        for nfe in NFE:
            row = compare_ways(name, problem, nfe)
            rows.append(row)
            errors = " | ".join(
                f"{row[k]:.1e}" for k in ("published", "recommended", "fit_grid", "fit_solver")
            )
            print(
                f"| {name} | {nfe} | {errors} | {row['grid_seconds']:.0f} + "
                f"{row['solver_seconds']:.0f} |",
                flush=True,
            )
    if out is not None:
        write_json(out, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write JSON")
    main(parser.parse_args().out)
