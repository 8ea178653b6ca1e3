"""Answers on this device beside those stored from a CPU in float64: relative distances, and how far float32 itself is from them.

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
    """Return the distance of two arrays over the size of the second; NaN anywhere makes it NaN."""
    answer = np.asarray(answer, np.float64)
    return float(np.linalg.norm(answer - stored) / np.linalg.norm(stored))


def main() -> None:
    """Ask every question in every mode, and compare."""

    def more(parser):
        parser.add_argument("--modes", nargs="*", choices=list(BOUNDS), default=list(BOUNDS))

    options = parse(__doc__, more)
    set_up_jax()
    records = Records(options.out)
    stored = np.load(STORED)
    for mode in options.modes:
        asked = questions(mode)
        if mode == "bfloat16":  # only networks have a type
            asked = {name: ask for name, ask in asked.items() if "network" in name}
        with ThreadPoolExecutor(8) as pool:  # nearly all of the time is compiling
            answers = dict(
                zip(asked, pool.map(lambda ask: np.asarray(ask()), asked.values()), strict=True)
            )
        for name, answer in answers.items():
            found = distance(answer, stored[name.removesuffix("-fused")])
            verdict = "right" if found < BOUNDS[mode] else "WRONG"
            records.add("correctness", mode=mode, question=name, distance=found, verdict=verdict)


if __name__ == "__main__":
    main()
