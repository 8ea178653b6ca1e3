"""A watch over processes that train together: one that stands still ends the others in time.

A process that dies is noticed by its peers, as their connections break. One that is alive but stuck,
in a file system, say, or stopped, holds them in a collective operation for ever. So each process
writes every few seconds at which step it is into a small file in the run directory, and when its
own step has not changed for too long, it says who is behind and ends.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..storage.writing import write_bytes

FOLDER = ".processes"
SILENCE = 45.0  # seconds; a process that says nothing for so long is dead or stopped
STUCK = 75  # the exit code: a failure that another start may not have


class Beat(NamedTuple):
    """What a process last said of itself."""

    step: int
    since: float  # seconds of the clock at which it came to its step
    written: float  # and at which it said so
    where: str  # host and process number of the system


class Watchdog:
    """Ends this process when no step was made for `patience` seconds; a context.

    It does so earlier, after `SILENCE`, if another process has said nothing for as long. It watches
    from the first `beat` on, as compiling takes its time.

    Args:
        workdir: the run directory, which all processes see.
        number: of this process among those that train.
        patience: seconds.
        remedy: what the message ends with; it is called when the message is written.
        end: called with the message; by default it is printed and the process ends at once.
    """

    def __init__(
        self,
        workdir: Path,
        number: int,
        patience: float,
        remedy: Callable[[], str],
        end: Callable[[str], None] | None = None,
    ):
        self._folder = workdir / FOLDER
        self._number = number
        self._patience = patience
        self._interval = min(5.0, patience / 10)
        self._silence = min(SILENCE, patience / 2)
        self._remedy = remedy
        self._end = end or _end
        self._step: int | None = None
        self._since = time.time()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, step: int) -> None:
        """Say that this process has come to a step."""
        self._since = time.time()
        self._step = step

    def __enter__(self) -> "Watchdog":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path(self._number).unlink(missing_ok=True)  # of an earlier start
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._path(self._number).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are still there
            self._folder.rmdir()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _watch(self) -> None:
        """Write and look, until the context ends or a step takes too long."""
        while not self._stopped.wait(self._interval):
            if self._step is None:
                continue
            waited = time.time() - self._since
            with contextlib.suppress(OSError):  # a full disk is no reason to end
                self._write(self._step)
            if waited > min(self._patience, SILENCE):
                beats = self._beats(self._step)
                if waited > self._patience or _silent(beats, self._silence):
                    self._end(self._message(beats, self._step, waited))
                    return

    def _write(self, step: int) -> None:
        where = f"{socket.gethostname()}, process {os.getpid()}"
        beat = Beat(step, self._since, time.time(), where)
        write_bytes(self._path(self._number), json.dumps(beat._asdict()).encode())

    def _beats(self, step: int) -> dict[int, Beat]:
        """Return what each process last said, and this one says now."""
        mine = {self._number: Beat(step, self._since, time.time(), "this one")}
        return read_beats(self._folder) | mine

    def _message(self, beats: dict[int, Beat], step: int, waited: float) -> str:
        """Say for how long nothing went on, and who is behind."""
        return (
            f"no step was made for {waited:.0f} s after step {step}: "
            f"{_who_is_behind(beats, self._silence)}; {self._remedy()}"
        )


class NoWatchdog:
    """The watch over a process that is alone."""

    def beat(self, step: int) -> None:
        """Say nothing."""

    def __enter__(self) -> "NoWatchdog":
        return self

    def __exit__(self, *error: object) -> None:
        """End nothing."""


def read_beats(folder: Path) -> dict[int, Beat]:
    """Return what each process last said, by its number."""
    beats = {}
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            beats[int(path.stem)] = Beat(**json.loads(path.read_bytes()))
    return beats


def _silent(beats: dict[int, Beat], seconds: float) -> dict[int, Beat]:
    """Return what those processes last said that have said nothing for some seconds."""
    return {n: beat for n, beat in beats.items() if time.time() - beat.written > seconds}


def _who_is_behind(beats: dict[int, Beat], silence: float) -> str:
    """Return the sentence about the process that holds up the others.

    That is one that has said nothing for `silence` seconds, or else one at the earliest step.
    """
    silent = _silent(beats, silence)
    earliest = min(beat.step for beat in beats.values())
    behind = {n: beat for n, beat in beats.items() if beat.step == earliest}
    if silent:
        number, beat = min(silent.items(), key=lambda item: item[1].written)
        state = f"has said nothing for {time.time() - beat.written:.0f} s"
    elif len(behind) < len(beats):
        number, beat = min(behind.items(), key=lambda item: item[1].since)
        state = "is behind the others"
    else:
        return f"all {len(beats)} processes wait at step {earliest}"
    return f"process {number} ({beat.where}) {state}, at step {beat.step}"


def _end(message: str) -> None:
    """Print a message and end this process, whose main thread waits inside a library."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"\nerror: {message}\n".encode())
    os._exit(STUCK)
