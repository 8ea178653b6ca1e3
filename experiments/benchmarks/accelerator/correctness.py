"""Answers on this device beside those stored from a CPU in float64: relative distances.

python -m experiments.benchmarks.accelerator.correctness --out=DIR
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...run.devices import set_up_jax
from .answers import STORED, questions
from .options import parse
from .records import Records

# An answer further off than this is wrong, not rounded: float32 rounds to 6e-8, TF32 (the
# default of GPUs) to 5e-4, bfloat16 to 4e-3, all grown by depth.
BOUNDS = {"float32": 1e-3, "default": 3e-2, "bfloat16": 2e-1}


def distance(answer, stored) -> float:
    """Return the distance of two arrays over the norm of the second; NaN anywhere makes it NaN."""
    answer = np.asarray(answer, np.float64)
    return float(np.linalg.norm(answer - stored) / np.linalg.norm(stored))


def main() -> None:
    """Compute every answer in every mode, compare it with the stored one, and store the distance."""

    def more(parser):
        parser.add_argument("--modes", nargs="*", choices=list(BOUNDS), default=list(BOUNDS))

    options = parse(__doc__, more)
    set_up_jax()
    records = Records(options.out)
    stored = np.load(STORED)
    for mode in options.modes:
        calls = questions(mode)
        if mode == "bfloat16":  # only networks have a type
            calls = {name: call for name, call in calls.items() if "network" in name}
        with ThreadPoolExecutor(8) as pool:  # nearly all of the time is compiling
            jobs = {name: pool.submit(call) for name, call in calls.items()}
        for name, job in jobs.items():
            error = distance(job.result(), stored[name.removesuffix("-fused")])
            verdict = "right" if error < BOUNDS[mode] else "WRONG"
            records.add("correctness", mode=mode, question=name, distance=error, verdict=verdict)


if __name__ == "__main__":
    main()
