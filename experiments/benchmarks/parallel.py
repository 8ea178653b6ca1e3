"""Parallel in time beside the sequential walk: calls in a row, error and seconds for 100 steps.

    python -m experiments.benchmarks.parallel --workdir=runs/demo

`error` is the median, over 64 starts, of the root mean square distance to the sequential end (x, in
units of the data). On an exact mixture and, with `--workdir`, on a trained network, for which the
seconds of one image are measured on one device and with the window split over all of them.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType

from samplers import DDIM, EulerMaruyama, Sampler, draw_prior, grids, sample, sample_parallel
from sde_lib import SDE

from ..measures.timing import seconds_of
from ..run.devices import set_up_jax
from ..run.loading import load
from ..run.placement import replicate
from .problems import problems

STEPS = 100
NUMBER = 64  # starts
AT_ONCE = 8  # starts in a batch
SAMPLERS: dict[str, Sampler] = {"DDIM": DDIM(), "EulerMaruyama": EulerMaruyama()}


class Subject(NamedTuple):
    """What is sampled."""

    denoise: Any
    sde: SDE
    shape: tuple[int, ...]  # of an example


def depth_and_error(sampler: Sampler, subject: Subject, tolerance: float) -> tuple[int, int, float]:
    """Return the sequential calls and evaluations of the slowest start, and the error."""
    denoise, sde, shape = subject
    key = jax.random.key(0)
    ts = grids.quadratic(sde, STEPS)
    x = draw_prior(key, sde, (NUMBER, *shape))
    expected = sample(key, sampler, denoise, sde, ts, x, denoise_last=False).x
    depths = []
    ends = []
    for first in range(0, NUMBER, AT_ONCE):
        index = np.arange(first, first + AT_ONCE)
        walk = sample_parallel(
            key,
            sampler,
            denoise,
            sde,
            ts,
            x[index],
            index=jax.numpy.asarray(index),
            tolerance=tolerance,
        )
        depths.append((int(walk.depth), int(walk.nfe)))
        ends.append(np.asarray(walk.x))
    squares = np.square(np.concatenate(ends) - expected).reshape(NUMBER, -1)
    depth, nfe = max(depths)
    return depth, nfe, float(np.median(np.sqrt(np.mean(squares, 1))))


def seconds(sampler: Sampler, subject: Subject, tolerance: float) -> dict[str, float]:
    """Return the seconds of one image: step after step, in parallel on one device, and on all."""
    denoise, sde, shape = subject
    key = jax.random.key(0)
    ts = grids.quadratic(sde, STEPS)
    x = draw_prior(key, sde, (1, *shape))
    count = max(n for n in range(1, jax.local_device_count() + 1) if STEPS % n == 0)
    mesh = jax.make_mesh(
        (count,), ("time",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:count]
    )
    denoise_everywhere = replicate(mesh, denoise)
    x_everywhere = replicate(mesh, x)

    def sequential():
        return sample(key, sampler, denoise, sde, ts, x, denoise_last=False).x

    def parallel():
        return sample_parallel(key, sampler, denoise, sde, ts, x, tolerance=tolerance).x

    def on_all():
        return sample_parallel(
            key,
            sampler,
            denoise_everywhere,
            sde,
            ts,
            x_everywhere,
            tolerance=tolerance,
            mesh=mesh,
        ).x

    calls = {
        "sequential": sequential,
        "parallel, 1 device": parallel,
        f"parallel, {count} devices": on_all,
    }
    for call in calls.values():
        seconds_of(call)  # compiles
    return {
        name: float(np.median([seconds_of(call) for _ in range(3)])) for name, call in calls.items()
    }


def main() -> None:
    """Measure the exact problem, and the run that the command line names, and print."""
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
    denoise = problem.data.denoiser(problem.sde)
    subjects = {"mixture": Subject(denoise=denoise, sde=problem.sde, shape=(2,))}
    if arguments.workdir:
        loaded = load(arguments.workdir)
        subjects[str(arguments.workdir)] = Subject(
            denoise=loaded.denoiser, sde=loaded.run.sde, shape=loaded.run.facts.shape
        )
    print("| | sampler | sequential calls | fewer by | NFE | error |\n|---|---|---|---|---|---|")
    for title, subject in subjects.items():
        for name, sampler in SAMPLERS.items():
            depth, nfe, error = depth_and_error(sampler, subject, arguments.tolerance)
            print(
                f"| {title} | {name} | {depth} for {STEPS} | {STEPS / depth:.1f} | {nfe} | "
                f"{error:.1e} |",
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
