"""What a run tells: a progress bar on the terminal, scalars and pictures in TensorBoard, the same scalars as JSON lines."""

import json
import sys
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm


def progress(total: int, description: str, initial: int = 0, unit: str = "step") -> tqdm:
    """Return a progress bar with rate and time left; where the output is a file it writes a line now and then instead."""
    interval = 0.2 if sys.stderr.isatty() else 20.0
    return tqdm(total=total, desc=description, initial=initial, unit=unit, mininterval=interval, dynamic_ncols=True, file=sys.stderr)


class Log:
    """Scalars and pictures of a run, from `step` on; what an interrupted run wrote beyond that step is dropped."""

    def __init__(self, workdir: Path, step: int):
        self._lines = workdir / "metrics.jsonl"
        kept = [line for line in self._read() if line["step"] <= step]
        self._lines.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1, flush_secs=10)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write named numbers."""
        with open(self._lines, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 image (height, width, 3)."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files."""
        self._board.close()

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
