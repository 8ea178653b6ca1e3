"""What each sampler reaches for its network evaluations, on problems whose answers are known.

    python -m experiments.benchmarks.work_precision --out=work_precision.json

Deterministic samplers: the error at the end of the probability flow. Stochastic ones: the distance
of 50,000 samples to the law that they should have, over three seeds, beside those of diffusers and
k-diffusion where these are installed. Prints the best of each problem and number of evaluations;
writes every figure as JSON and, beside it, two pictures.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from ..storage.writing import write_json
from . import deterministic, stochastic

HALVES = {"deterministic": deterministic, "stochastic": stochastic}


def main(out: Path, halves=tuple(HALVES)) -> None:
    """Measure the halves, print their tables, write all records to `out` and a picture of each."""
    records = {}
    for half in halves:
        records[half] = HALVES[half].measure_errors()
        print(f"{half}\n\n{HALVES[half].as_markdown(records[half])}\n", flush=True)
        number = len({r["problem"] for r in records[half]})
        figure = Figure(figsize=(5 * number, 4.5), layout="constrained")
        HALVES[half].draw(records[half], figure)
        figure.savefig(out.with_name(f"{out.stem}_{half}.png"))
        write_json(out, records)


def short() -> None:
    """Run the few samplers and evaluations of `make bench`."""
    names = ("DDIM", "Heun", "DPMpp2M", "DEIS3", "UniPC3")
    print(
        "Median error at the end of the flow, best sampler and grid at each number of network "
        "evaluations\n"
    )
    records = deterministic.measure_errors(names, (10, 20, 50), ("gmm2 VP", "gmm2 EDM"))
    print(deterministic.as_markdown(records))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("work_precision.json"), help="where the figures go"
    )
    parser.add_argument(
        "--halves",
        nargs="+",
        choices=HALVES,
        default=tuple(HALVES),
        help="which to run; both by default",
    )
    arguments = parser.parse_args()
    main(arguments.out, arguments.halves)
