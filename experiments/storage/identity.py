"""What a stored result depends on, so that it is never taken for that of something else.

Weights are known by the hash of their checkpoint's manifest, data by the hash of their examples,
the configuration by the hash of its decisive part, and the code by the hash of its source: of the
libraries, and of the modules here that compute.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import models
import samplers
import sde_lib

from .. import data
from .saved_config import decisive

if TYPE_CHECKING:
    from ..run.loading import Loaded

_COMPUTING = (
    "run/averages.py",
    "run/blocks.py",
    "run/build.py",
    "run/chosen_average.py",
    "run/conditions.py",
    "run/devices.py",
    "run/flow.py",
    "run/guidance.py",
    "run/loading.py",
    "run/noise.py",
    "run/observations.py",
    "run/operators.py",
    "run/power_average.py",
    "run/restoration.py",
    "run/restoration_methods.py",
    "run/sample_parts.py",
    "run/walks.py",
    "modes/dequantise.py",
    "modes/likelihood.py",
    "modes/restore.py",
    "modes/sample.py",
)


def identity(loaded: "Loaded") -> dict[str, Any]:
    """Return what every result of a loaded run depends on, as plain JSON."""
    config = json.loads(loaded.run.config.to_json_best_effort())
    return {
        "checkpoint": loaded.step,
        "weights": loaded.weights,
        "config": digest(json.dumps(decisive(config), sort_keys=True).encode()),
        "code": code_version(),
    }


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def data_hash(dataset: data.DataSet, split: str, limit: int | None = None) -> str:
    """Return the hash of the raw examples of a split, or of `limit` of them, evenly spaced."""
    source = dataset.source(split)
    count = len(source) if limit is None else min(len(source), limit)
    rows = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
    state = hashlib.sha256(f"{len(source)} {dataset.shape} {dataset.levels}".encode())
    for row in rows:
        example = source[int(row)]
        x = np.ascontiguousarray(example["x"])
        state.update(f"{x.dtype.str} {x.shape} {int(example['label'])} ".encode())
        state.update(x.tobytes())
        if source.read_cond is not None:
            state.update(np.asarray(source.read_cond(int(row)), np.float32).tobytes())
    return state.hexdigest()


@functools.cache
def code_version() -> str:
    """Return the hash of the source that results are computed with."""
    version = hashlib.sha256()
    for file in _sources():
        version.update(f"{file.parent.name}/{file.name} ".encode())
        version.update(file.read_bytes())
    return version.hexdigest()


def _sources() -> list[Path]:
    """Return the files of the libraries, of the data sets and of the modules here that compute."""
    here = Path(__file__).parents[1]
    packages = [Path(package.__file__ or "").parent for package in (sde_lib, models, samplers)]
    files = [file for root in (*packages, here / "data") for file in sorted(root.rglob("*.py"))]
    return files + [here / name for name in _COMPUTING]
