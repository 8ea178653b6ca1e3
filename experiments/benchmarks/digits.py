"""Samplers on a trained run: what each evaluation buys where no exact answer is known.

    python -m experiments.benchmarks.digits --workdir=runs/demo

For every sampler, from the same 512 starts: network evaluations, seconds, the median distance to
the answer of 1000 steps (root mean square over pixels in [-1, 1], of the probability flow; a
stochastic sampler has an answer of its own), how often the nearest other image is of the same kind
(1-NN, 0.5: as alike as two halves of the data) and the Frechet distance in pixels, against as many
training images. Solvers that `--mode=fit` has learnt for the run are measured beside the others.
The answer of 1000 steps is stored in the run.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ..measures import metrics
from ..modes.evaluate import real_images
from ..modes.fit import with_fits
from ..modes.sample import draw
from ..run.build import make_dataset
from ..run.devices import set_up_jax
from ..run.loading import Loaded, load
from ..storage.jobs import save_arrays
from ..storage.writing import write_json

NUMBER = 512
BATCH = 128
# 999 steps, and one evaluation to denoise.
REFERENCE = {"name": "DPMpp2M", "grid": "log_snr", "steps": 999, "end": 1e-3}
SETTINGS: dict[str, dict] = {
    **{f"recommended {n}": {"name": "recommended", "nfe": n} for n in (5, 10, 20, 50)},
    **{
        f"recommended stochastic {n}": {"name": "recommended", "nfe": n, "stochastic": True}
        for n in (20, 50)
    },
    "DDIM 20": {"name": "DDIM", "grid": "quadratic", "steps": 19, "end": 1e-3},
    "Heun 21": {"name": "Heun", "grid": "karras", "steps": 10, "end": 1e-3},
    "DPMpp2M 20": {"name": "DPMpp2M", "grid": "log_snr", "steps": 19, "end": 1e-3},
    "EulerMaruyama 50": {"name": "EulerMaruyama", "grid": "quadratic", "steps": 49, "end": 1e-3},
    "DPM adaptive": {"name": "dpm_adaptive"},
    "probability flow": {"name": "probability_flow", "rtol": 1e-3, "atol": 1e-3},
}


def images(loaded: Loaded, setting: dict) -> tuple[np.ndarray, int, float]:
    """Return samples in model range, their network evaluations, and the seconds they took.

    Compilation is not among the seconds.
    """
    setting = ConfigDict(setting)
    draw(loaded.run, loaded.denoiser, setting, np.arange(BATCH))  # compiles
    seconds = 0.0
    batches = []
    for first in range(0, NUMBER, BATCH):
        start = time.perf_counter()
        batches.append(draw(loaded.run, loaded.denoiser, setting, first + np.arange(BATCH)))
        seconds += time.perf_counter() - start
    x = np.concatenate([batch.x for batch in batches])
    return x, max(batch.nfe for batch in batches), seconds


def reference(loaded: Loaded, workdir: Path) -> tuple[np.ndarray, float]:
    """Return the ends after 1000 evaluations and the seconds they took.

    Both are read from the run if they are there.
    """
    path = workdir / f"reference_{loaded.step}.npz"
    if not path.exists():
        start = time.perf_counter()
        parts = [
            draw(loaded.run, loaded.denoiser, ConfigDict(REFERENCE), first + np.arange(BATCH)).x
            for first in range(0, NUMBER, BATCH)
        ]
        save_arrays(path, x=np.concatenate(parts), seconds=time.perf_counter() - start)
    with np.load(path) as saved:
        return saved["x"], float(saved["seconds"])


def compare_samplers(loaded: Loaded, workdir: Path) -> list[dict]:
    """Return one row for each sampler, and print each as it comes."""
    config = loaded.run.config
    real = real_images(make_dataset(config), config.eval.train_split)
    real = real[np.random.default_rng(0).permutation(len(real))[:NUMBER]]
    answer, answer_seconds = reference(loaded, workdir)
    fitted = {
        path.stem: dict(config.samplers[path.stem])
        for path in sorted((workdir / "fits").glob("*.json"))
    }
    print(
        "| sampler | NFE | seconds | distance to 1000 steps | 1-NN | Frechet "
        "|\n|---|---|---|---|---|---|"
    )
    rows = []
    for name, setting in {"1000 steps": None, **fitted, **SETTINGS}.items():
        if setting is None:
            x, nfe, seconds = answer, 1000, answer_seconds
        else:
            x, nfe, seconds = images(loaded, setting)
        row = {"sampler": name, "nfe": nfe, "seconds": seconds}
        row |= scores(x, answer, loaded.run.facts.codec.decode(x), real)
        rows.append(row)
        print(
            f"| {name} | {nfe} | {seconds:.1f} | {row['distance']:.4f} | "
            f"{row['one_nn']['value']:.3f} ± {row['one_nn']['std_error']:.3f} | "
            f"{row['frechet']:.2f} |",
            flush=True,
        )
    return rows


def scores(x: np.ndarray, answer: np.ndarray, fake: np.ndarray, real: np.ndarray) -> dict:
    """Return how far samples are from the answer, and how they compare with real images.

    `x` and `answer` are in model range, `fake` and `real` in raw values.
    """
    distances = np.sqrt(np.mean((x - answer) ** 2, (1, 2, 3)))
    number = min(len(fake), len(real))
    a = fake.reshape(len(fake), -1).astype(np.float64)
    b = real.reshape(len(real), -1).astype(np.float64)
    return {
        "distance": float(np.median(distances)),
        "one_nn": metrics.nearest_neighbour_accuracy(a[:number], b[:number])._asdict(),
        "frechet": metrics.frechet_distance(
            metrics.pooled_pixels(fake), metrics.pooled_pixels(real)
        ),
    }


def main() -> None:
    """Compare the samplers of a run, print the rows and write them into the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--workdir", type=Path, required=True, help="run directory of a network trained on images"
    )
    workdir = parser.parse_args().workdir
    set_up_jax()
    loaded = with_fits(load(workdir), workdir)
    write_json(workdir / "samplers.json", compare_samplers(loaded, workdir))


if __name__ == "__main__":
    main()
