"""What a training leaves behind for the model card: `training.json`, and its seconds.

`training.json` says what the data were, and of every start of the training that led to the present
weights where it began, on which hardware, with which packages and by which command. The seconds
stand in `metrics.jsonl`, in a line for every checkpoint, and go on where a run goes on: what a
killed run did beyond its last checkpoint is done again, and not counted.
"""

import json
import time
from pathlib import Path
from typing import Any

from ..errors import RunError
from .reading import read_object
from .writing import write_json

TRAINING = "training.json"
METRICS = "metrics.jsonl"
SECONDS = "train/seconds"  # of the training up to the step of its line


class TrainingClock:
    """The seconds of a training that goes on, with those before it (None: not known)."""

    def __init__(self, before: float | None):
        self._before = before
        self._began = time.perf_counter()

    def entry(self) -> dict[str, float]:
        """Return the entry of the log; there is none where the seconds are not known."""
        if self._before is None:
            return {}
        return {SECONDS: self._before + time.perf_counter() - self._began}


def record_data(workdir: Path, data: dict[str, Any]) -> None:
    """Begin the record of a run that has none, because an older version trained it."""
    if not (workdir / TRAINING).exists():
        write_json(workdir / TRAINING, {"data": data, "starts": []})


def record_start(workdir: Path, data: dict[str, Any], start: dict[str, Any]) -> None:
    """Add a start of training to those before it.

    Starts at the same step or later led to nothing that is left, and are dropped. A record that
    cannot be read is begun anew.

    Args:
        workdir: the run directory.
        data: what is known of the data set, as plain JSON.
        start: its "step", and whatever else is to be known of it, as plain JSON.
    """
    try:
        before = read_training(workdir)["starts"]
    except (RunError, KeyError):
        before = []
    kept = [other for other in before if other["step"] < start["step"]]
    write_json(workdir / TRAINING, {"data": data, "starts": [*kept, start]})


def read_training(workdir: Path) -> dict[str, Any]:
    """Return the record of a training: "data", and "starts" in the order of their steps.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = workdir / TRAINING
    remedy = "remove it; the next start of --mode=train begins a new one"
    record = read_object(path, remedy)
    starts: Any = record.get("starts")
    good = isinstance(starts, list) and isinstance(record.get("data"), dict)
    if not good or not all(isinstance(s, dict) and isinstance(s.get("step"), int) for s in starts):
        raise RunError(f"{path} is damaged: it should hold data and starts; {remedy}")
    return record


def seconds_at(workdir: Path, step: int) -> float | None:
    """Return the seconds of wall time that a training took up to the checkpoint of a step.

    The result is None where they are not known: in a run of an older version, or a converted one,
    or without `metrics.jsonl`.
    """
    if step == 0:
        return 0.0
    try:
        lines = (workdir / METRICS).read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and values.get("step") == step:
            seconds = values.get(SECONDS)
            return float(seconds) if isinstance(seconds, int | float) else None
    return None
