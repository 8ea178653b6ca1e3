"""Bits per dimension of models that need no diffusion, to know what those of a network are worth.

    python -m experiments.benchmarks.baselines --data=FashionMNIST --out=baselines.json

- A mixture of Gaussians with full covariances, of uniformly dequantised grey levels, by expectation
  maximisation (scikit-learn); the number of components is chosen on the validation split. Its bits
  are an upper bound on those of the integers, like a diffusion model's.
- A small autoregressive model of the integers (`causal_model`).

Both are trained on the training split, and measured once on the test split.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from sklearn.mixture import GaussianMixture

from .. import data
from ..command.data_set import add_data, parse_with_data
from ..data.codec import dequantised
from ..data.pipeline import random_words
from ..errors import RunError
from ..measures.images.feature_file import data_facts
from ..run.build import make_dataset
from ..run.devices import set_up_jax
from ..run.messages import say
from ..storage.writing import write_json
from .causal_model import measure_causal, train_causal

COMPONENTS = (1, 10, 20)
ITERATIONS = 5


def grey_levels(dataset: data.DataSet, split: str, limit: int, seed: int) -> np.ndarray:
    """Return the dequantised grey levels of the first `limit` images of a split, one a row."""
    size = min(limit, len(dataset.source(split)))
    x = np.concatenate([block.x for block in data.blocks(dataset, split, np.arange(size))])
    x = x.reshape(size, -1)
    return dequantised(x, random_words(seed, 0, 0, size, x.shape[1])).astype(np.float64)


def mixture_bits(dataset: data.DataSet, splits: tuple[str, str, str], limit: int) -> dict[str, Any]:
    """Return the bits per dimension of the mixture that is best on held-out images.

    Args:
        dataset: images of grey levels.
        splits: to fit on, to choose on, to measure.
        limit: how many images of each are used at most.
    """
    fit, choose, test = (grey_levels(dataset, split, limit, i) for i, split in enumerate(splits))
    scale = np.log(2) * fit.shape[1]
    mixtures = {}
    held_out = {}
    for count in COMPONENTS:
        # Dequantised pixels have a variance of 1/12 and more, so that nothing is singular.
        mixture = GaussianMixture(count, max_iter=ITERATIONS, random_state=0, tol=0.0)
        mixtures[count] = _fit(mixture, fit)
        held_out[count] = float(-mixture.score(choose) / scale)
        say(f"{count} Gaussians: {held_out[count]:.3f} bits/dim on {splits[1]}")
    best = min(held_out, key=held_out.__getitem__)
    bits = -mixtures[best].score_samples(test) / scale
    return {"components": best, "validation": held_out, **mean_with_error(bits)}


def _fit(mixture: GaussianMixture, x: np.ndarray) -> GaussianMixture:
    """Fit a mixture; that it has not converged is known."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(x)


def causal_bits(dataset: data.DataSet, splits: tuple[str, str, str], steps: int) -> dict[str, Any]:
    """Return the bits per dimension of the autoregressive model."""
    model = train_causal(dataset, splits[0], steps)
    return mean_with_error(measure_causal(model, dataset, splits[2])) | {"steps": steps}


def mean_with_error(bits: np.ndarray) -> dict[str, Any]:
    """Return the mean of values and its standard error."""
    return {
        "bits_per_dim": float(bits.mean()),
        "std_error": float(bits.std(ddof=1) / np.sqrt(len(bits))),
        "images": len(bits),
    }


def main() -> None:
    """Measure as the command line says; write the results as they come."""
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.baselines",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_data(parser, "of grey levels")
    parser.add_argument("--out", required=True, type=Path, help=".json file to write")
    parser.add_argument("--splits", nargs=3, default=("train", "validation", "test"))
    parser.add_argument("--steps", type=int, default=6000, help="of the autoregressive model")
    parser.add_argument("--limit", type=int, default=60_000, help="images for the mixture")
    set_up_jax()
    try:
        run(*parse_with_data(parser))
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run(arguments: argparse.Namespace, config: ConfigDict) -> None:
    """Measure both models on the data that a configuration names."""
    dataset = make_dataset(config)
    report: dict[str, Any] = data_facts(config.data)
    parts = {
        "mixture": lambda: mixture_bits(dataset, arguments.splits, arguments.limit),
        "autoregressive": lambda: causal_bits(dataset, arguments.splits, arguments.steps),
    }
    for name, measure in parts.items():
        start = time.perf_counter()
        report[name] = measure() | {"seconds": time.perf_counter() - start}
        write_json(arguments.out, report)
        result = report[name]
        say(
            f"{name}: {result['bits_per_dim']:.3f} ± {result['std_error']:.3f} bits/dim of "
            f"{result['images']} images, {result['seconds']:.0f} s"
        )


if __name__ == "__main__":
    main()
