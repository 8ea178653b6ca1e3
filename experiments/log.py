"""What a run records: scalars and pictures in TensorBoard, the same scalars as JSON lines."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image as image_summary
from tensorboardX.summary import scalar as scalar_summary


class Log:
    """Scalars and pictures of a run, from `step` on; what an interrupted run wrote beyond that step is dropped."""

    def __init__(self, workdir: Path, step: int):
        self._lines = workdir / "metrics.jsonl"
        kept = [line for line in self._read() if line["step"] <= step]
        self._lines.write_text("".join(json.dumps(line) + "\n" for line in kept))
        (workdir / "tensorboard").mkdir(exist_ok=True)
        # not SummaryWriter: its thread dies where a write fails, on a full disk say, and the run would wait for it for ever
        self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._event(
            step + 1, session_log=SessionLog(status=SessionLog.START)
        )  # drops what was shown from there on

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write named numbers."""
        with open(self._lines, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
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

    def _read(self) -> list[dict]:
        if not self._lines.exists():
            return []
        lines = []
        for line in self._lines.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:  # the line that a kill cut off
                continue
        return lines
