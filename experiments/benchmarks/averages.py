"""The held-out loss of a trained run against the average of its weights, made after training.

    python -m experiments.main --config=experiments/configs/toy.py:checkerboard \
        --workdir=runs/averages --config.train.steps=2000 --config.averages.snapshot_every=100
    python -m experiments.benchmarks.averages runs/averages

The run needs snapshots of power-function averages. The loss is that of the log of training, the
mean over eight noise levels equally spaced in log-SNR, on the first 256 held-out examples. Every
average sees the same noise, so that the difference to `ema` is known better than the loss; errors
are standard errors over draws of the noise.
"""

import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import data
from ..errors import RunError
from ..run.build import make_dataset
from ..run.devices import set_up_jax
from ..run.loading import Loaded, load
from ..run.losses import make_held_out

WIDTHS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25)
DRAWS = 16


class Row(NamedTuple):
    """The losses of one average."""

    name: str
    losses: np.ndarray  # (draws,)
    text: str  # says how the average was made


def examples(loaded: Loaded) -> dict:
    """Return the held-out examples of a run."""
    config = loaded.config
    dataset = make_dataset(config)
    split = config.train.held_out or config.eval.split
    size = min(len(dataset.source(split)), 256)
    return next(data.batches(dataset, split, size, seed=config.seed, train=False))


def compare(workdir: Path) -> list[Row]:
    """Return a row for each average of a run, `ema` first."""
    loaded = load(workdir, average="ema")
    batch = examples(loaded)
    measures, _ = make_held_out(loaded.run)

    def losses(params: Any) -> np.ndarray:
        draws = [measures(params, jax.random.key(number), batch) for number in range(DRAWS)]
        return np.array([np.mean(draw["loss"]) for draw in draws])

    rows = [Row("ema", losses(_params(loaded)), loaded.average)]
    for width in WIDTHS:
        name = f"sigma_rel={width:g}"
        try:
            with warnings.catch_warnings(action="ignore"):
                other = load(workdir, average=name)
        except RunError as error:
            print(f"{name} is left out: {error}")
            continue
        rows.append(Row(name, losses(_params(other)), other.average))
    return rows


def _params(loaded: Loaded) -> Any:
    owner: Any = loaded.classifier if loaded.run.classifies else loaded.denoiser
    return owner.net.params


def main() -> None:
    """Print the table of a run."""
    set_up_jax()
    if len(sys.argv) != 2:
        sys.exit("name a run directory: python -m experiments.benchmarks.averages runs/NAME")
    rows = compare(Path(sys.argv[1]))
    print("| average | loss | difference to ema | how it was made |\n|---|---|---|---|")
    for row in rows:
        difference = row.losses - rows[0].losses
        error = difference.std(ddof=1) / np.sqrt(DRAWS)
        print(
            f"| {row.name} | {row.losses.mean():.4f} | {difference.mean():+.4f} +- {error:.4f} "
            f"| {row.text} |"
        )


if __name__ == "__main__":
    main()
