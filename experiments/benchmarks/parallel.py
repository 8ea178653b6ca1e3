"""Parallel in time beside the sequential walk: calls one after the other, error and seconds, for 100 steps and one image.

    python -m experiments.benchmarks.parallel --workdir=runs/demo

`error` is the median, over 64 starts, of the root mean square distance to the sequential end (x, in units of the data). On an exact mixture
and, with `--workdir`, on a trained network, for which the seconds of one image are measured on one device and with the window spread over
all of them.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

from samplers import DDIM, EulerMaruyama, Sampler, draw_prior, grids, sample, sample_parallel
from sde_lib import SDE

from ..measures.timing import seconds_of
from ..run.devices import replicate, set_up_jax
from ..run.loading import load
from .problems import problems

STEPS, NUMBER, KEY = 100, 64, jax.random.key
SAMPLERS: dict[str, Sampler] = {"DDIM": DDIM(), "EulerMaruyama": EulerMaruyama()}


def depth_and_error(
    sampler: Sampler, subject: tuple[Any, SDE, tuple], tolerance: float
) -> tuple[int, int, float]:
    """Return the sequential calls and evaluations of the slowest start, and the error."""
    denoise, sde, shape = subject
    ts, x = grids.quadratic(sde, STEPS), draw_prior(KEY(0), sde, (NUMBER, *shape))
    expected = sample(KEY(0), sampler, denoise, sde, ts, x, denoise_last=False).x
    depths, ends, size = [], [], 8
    for first in range(0, NUMBER, size):
        index = np.arange(first, first + size)
        found = sample_parallel(
            KEY(0),
            sampler,
            denoise,
            sde,
            ts,
            x[index],
            index=jax.numpy.asarray(index),
            tolerance=tolerance,
        )
        depths.append((int(found.depth), int(found.nfe)))
        ends.append(np.asarray(found.x))
    off = np.sqrt(np.mean(np.square(np.concatenate(ends) - expected).reshape(NUMBER, -1), 1))
    return *max(depths), float(np.median(off))


def seconds(
    sampler: Sampler, subject: tuple[Any, SDE, tuple], tolerance: float
) -> dict[str, float]:
    """Return the seconds of one image: step after step, in parallel on one device, and on all."""
    denoise, sde, shape = subject
    ts, x = grids.quadratic(sde, STEPS), draw_prior(KEY(0), sde, (1, *shape))
    count = max(n for n in range(1, jax.local_device_count() + 1) if STEPS % n == 0)
    mesh = jax.make_mesh(
        (count,), ("time",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:count]
    )
    spread, start = replicate(mesh, denoise), replicate(mesh, x)
    calls = {
        "sequential": lambda: sample(KEY(0), sampler, denoise, sde, ts, x, denoise_last=False).x,
        "parallel, 1 device": lambda: sample_parallel(KEY(0), sampler, denoise, sde, ts, x, tolerance=tolerance).x,
        f"parallel, {count} devices": lambda: sample_parallel(
            KEY(0), sampler, spread, sde, ts, start, tolerance=tolerance, mesh=mesh
        ).x,
    }  # fmt: skip
    for call in calls.values():
        seconds_of(call)
    return {
        name: float(np.median([seconds_of(call) for _ in range(3)])) for name, call in calls.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--workdir",
        type=Path,
        help="run directory of a trained network, measured beside the exact problem",
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of `sample_parallel`")
    arguments = parser.parse_args()
    set_up_jax()
    problem = problems("gmm2 VP")["gmm2 VP"]
    subjects: dict[str, Any] = {"mixture": (problem.data.denoiser(problem.sde), problem.sde, (2,))}
    if arguments.workdir:
        loaded = load(arguments.workdir)
        subjects[str(arguments.workdir)] = loaded.denoiser, loaded.run.sde, loaded.run.facts.shape
    print("| | sampler | sequential calls | fewer by | NFE | error |\n|---|---|---|---|---|---|")
    for title, subject in subjects.items():
        for name, sampler in SAMPLERS.items():
            depth, nfe, error = depth_and_error(sampler, subject, arguments.tolerance)
            print(
                f"| {title} | {name} | {depth} for {STEPS} | {STEPS / depth:.1f} | {nfe} | {error:.1e} |",
                flush=True,
            )
    if arguments.workdir:
        times = seconds(SAMPLERS["DDIM"], subjects[str(arguments.workdir)], arguments.tolerance)
        print(
            "\nseconds of one image: "
            + "; ".join(f"{name} {value:.2f}" for name, value in times.items())
        )


if __name__ == "__main__":
    main()
