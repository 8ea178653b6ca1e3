"""What training measures on held-out data: the loss, and the accuracy of a classifier."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from .. import data
from .build import Run
from .losses import make_held_out
from .placement import share

LARGEST = 256  # examples


def held_out_scalars(
    run: Run, dataset: data.DataSet, mesh: Mesh
) -> Callable[[Any], dict[str, float]] | None:
    """Return the function params -> scalars of held-out loss, and accuracy, by noise level.

    The result is None if no split is held out.
    """
    split = run.config.train.held_out
    if not split:
        return None
    size = min(len(dataset.source(split)), LARGEST)
    batch = share(mesh, next(data.batches(dataset, split, size, seed=run.config.seed, train=False)))
    measures, times = make_held_out(run)

    def scalars(params: Any) -> dict[str, float]:
        logged = {}
        for name, values in measures(params, jax.random.key(0), batch).items():
            values = np.asarray(values)
            logged[f"held_out/{name}"] = float(values.mean())
            prefix = "" if name == "loss" else f"{name}, "
            for time, value in zip(times, values, strict=True):
                logged[f"held_out/{prefix}t={time:.2g}"] = float(value)
        return logged

    return scalars
