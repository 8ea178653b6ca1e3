"""What a run tells its user: sentences, progress, how long training takes, what comes next."""

import math
import shlex
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import jax
from tqdm import tqdm

from ..processes import is_first
from ..storage.saved import needs_trust

TIMED_STEPS = 100  # after these the time that the whole run takes is estimated

# Up to how many seconds a unit is used, its seconds, and its name.
UNITS = (
    (60, 1, "s"),
    (3600, 60, "min"),
    (48 * 3600, 3600, "h"),
    (math.inf, 86400, "days"),
)

# tqdm's own line, without the bar, which a file has no use for.
LINE_FORMAT = (
    "{desc}: {percentage:3.0f}%, {n_fmt} of {total_fmt} in {elapsed}, {remaining} left, "
    "{rate_fmt}{postfix}"
)


def say(text: str) -> None:
    """Print a sentence at once, also into a file or a pipe, and above a progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


class Lines:
    """A file in which each drawing of a progress bar is a line.

    A bar goes back to the start of its line, which files cannot show.
    """

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        """Write a drawing, without the signs that move a terminal's cursor."""
        if line := text.strip("\r\n "):
            self._file.write(line + "\n")

    def flush(self) -> None:
        """Pass on what was written."""
        self._file.flush()


def progress(total: int, description: str, initial: int = 0, unit: str = "step") -> tqdm:
    """Return a progress bar with rate and time left.

    Where the output is no terminal it writes a line now and then instead.
    """
    if not is_first():
        return tqdm(disable=True)
    settings: dict[str, Any] = {"mininterval": 0.2, "dynamic_ncols": True, "file": sys.stderr}
    if not sys.stderr.isatty():
        settings = {
            "mininterval": 20.0,
            "file": Lines(sys.stderr),
            "bar_format": LINE_FORMAT,
        }
    return tqdm(total=total, desc=description, initial=initial, unit=unit, **settings)


def skip(bar: tqdm, count: int) -> None:
    """Move a bar by what was done before, which says nothing about the rate."""
    bar.n += count
    bar.initial += count
    bar.last_print_n += count
    bar.refresh()


class Pace:
    """Says how long compiling took, and after the first hundred steps when the run will be done."""

    def __init__(self, start: int, total: int):
        self._first = start + 1
        self._total = total
        self._began = time.perf_counter()
        say("compiling the training step ...")

    def made(self, step: int, result: Any) -> None:
        """Take note that `step` was begun.

        `result` is what it computes, which is waited for at the two steps that are timed.
        """
        made = step - self._first + 1
        if made == 1:
            jax.block_until_ready(result)
            seconds = time.perf_counter() - self._began
            say(f"compiled, and the first step made, in {seconds:.1f} s")
            self._began = time.perf_counter()
        elif made == TIMED_STEPS and step < self._total:
            jax.block_until_ready(result)
            seconds = (time.perf_counter() - self._began) / (made - 1)
            left = seconds * (self._total - step)
            end = datetime.now() + timedelta(seconds=left)
            say(
                f"{1 / seconds:.3g} steps/s; the {self._total - step} steps left take about "
                f"{duration(left)}, until {end:%a %H:%M}"
            )


def duration(seconds: float) -> str:
    """Return a time as a reader says it: 45 s, 12 min, 3.4 h, 2.1 days."""
    size, unit = next((size, unit) for limit, size, unit in UNITS if seconds < limit)
    value = seconds / size
    digits = 0 if value >= 10 or size == 1 else 1
    return f"{value:.{digits}f} {unit}"


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(str(path))


def say_next(workdir: Path, mode: str, *flags: str) -> None:
    """Say which command comes next in a run directory."""
    command = ["python -m experiments.main", f"--workdir={quoted(workdir)}", f"--mode={mode}"]
    if needs_trust(workdir):
        command.append("--trust")
    say(f"next: {' '.join([*command, *flags])}")
