"""What a run records: scalars and pictures in TensorBoard, the same scalars as JSON lines."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image as image_summary
from tensorboardX.summary import scalar as scalar_summary

from ..processes import is_first
from ..storage.writing import without_nan, write_bytes


def open_log(workdir: Path, step: int) -> "Log | NoLog":
    """Return the log of a run: of several processes the first one writes it."""
    return Log(workdir, step) if is_first() else NoLog()


class Log:
    """Scalars and pictures of a run, from `step` on.

    What an interrupted run wrote beyond that step is dropped.
    """

    def __init__(self, workdir: Path, step: int):
        self._lines = workdir / "metrics.jsonl"
        self._drop_beyond(step)
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # not SummaryWriter: its thread dies where a write fails, on a full disk say, and the run
        # would wait for it for ever
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        # TensorBoard drops what it showed from this step on.
        self._event(step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write named numbers."""
        with open(self._lines, "a") as file:
            file.write(json.dumps(without_nan({"step": step, **values}), allow_nan=False) + "\n")
        for name, value in values.items():
            self._event(step, summary=scalar_summary(name, value))
        self._board.flush()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 image (height, width, 3)."""
        self._event(step, summary=image_summary(name, image, dataformats="HWC"))
        self._board.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: Any) -> None:
        self._board.close()

    def _event(self, step: int, **content: Any) -> None:
        self._board.write_event(Event(step=step, wall_time=time.time(), **content))

    def _drop_beyond(self, step: int) -> None:
        """Drop the lines of later steps and one that was cut off.

        The file is replaced in one piece, or not touched at all.

        If the file has lines that are not ours, it stays beside the new one.
        """
        if not self._lines.exists():
            return
        whole = self._lines.read_bytes()
        lines = whole.splitlines(keepends=True)
        steps = [_step_of(line) for line in lines]
        earlier = b"".join(
            line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step
        )
        if earlier == whole:
            return
        cut_off = bool(lines) and not lines[-1].endswith(b"\n")
        if None in (steps[:-1] if cut_off else steps):
            aside = self._lines.with_name(f"metrics.damaged-{time.time_ns()}.jsonl")
            write_bytes(aside, whole)
            print(
                f"line {steps.index(None) + 1} of {self._lines} is not one of ours; "
                f"going on without such lines, the file as it was is now {aside}",
                file=sys.stderr,
            )
        write_bytes(self._lines, earlier)


class NoLog:
    """The log of a process that writes none."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write nothing."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write nothing."""

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *error: Any) -> None:
        """Close nothing."""


def _step_of(line: bytes) -> int | None:
    """Return the step of a whole line of metrics.jsonl; None of anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = value.get("step") if isinstance(value, dict) else None
    return step if isinstance(step, int) and line.endswith(b"\n") else None
