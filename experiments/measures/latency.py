"""Seconds per image of a trained run, by network evaluations and batch size.

    python -m experiments.measures.latency --workdir=runs/demo

DDIM, whose cost is that of its evaluations alone; compiled before it is timed, the median of a few
calls.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import numpy as np

from samplers import DDIM, draw_prior, grids, sample

from ..run.devices import set_up_jax
from ..run.loading import Loaded, load
from ..run.placement import placement, share
from .timing import seconds_of

NFE = (1, 2, 5, 10, 20, 50)
BATCHES = (1, 16, 64)


def measure_latency(loaded: Loaded, repeats: int = 3) -> list[dict]:
    """Return rows {nfe, batch, seconds_per_image} of a loaded run, medians of `repeats` calls."""
    run = loaded.run
    rows = []
    for batch in BATCHES:
        place = placement(run.config, batch, fitting=True)
        denoiser = place.put_weights(loaded.denoiser)
        index = share(place.mesh, np.arange(batch, dtype=np.int32))
        x = draw_prior(jax.random.key(0), run.sde, (batch, *run.facts.shape), index)
        cond = index * 0 if run.config.train.conditional else None

        def walk(ts, denoiser=denoiser, x=x, cond=cond, index=index):
            return sample(
                jax.random.key(0),
                DDIM(),
                denoiser,
                run.sde,
                ts,
                x,
                cond=cond,
                index=index,
                denoise_last=False,
            ).x

        for nfe in NFE:
            call = partial(walk, grids.quadratic(run.sde, nfe))
            seconds_of(call)  # compiles
            seconds = float(np.median([seconds_of(call) for _ in range(repeats)]))
            rows.append({"nfe": nfe, "batch": batch, "seconds_per_image": seconds / batch})
    return rows


def as_markdown(rows: list[dict]) -> str:
    """Return the rows as a Markdown table: a line for each number of evaluations, batches across."""
    lines = [
        "| NFE | " + " | ".join(f"batch {b}" for b in BATCHES) + " |",
        "|" + "---|" * (len(BATCHES) + 1),
    ]
    for nfe in NFE:
        cells = [f"{row['seconds_per_image'] * 1e3:.2f} ms" for row in rows if row["nfe"] == nfe]
        lines.append(f"| {nfe} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the run that the command line names and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, required=True, help="run directory of a trained network"
    )
    arguments = parser.parse_args()
    set_up_jax()
    print(as_markdown(measure_latency(load(arguments.workdir))))


if __name__ == "__main__":
    main()
