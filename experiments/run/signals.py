"""Signals to stop: SIGTERM and SIGINT.

They end training at the next step, with a checkpoint, and everything else at once.

Everything that a run writes is whole or absent, so that a process may end anywhere. Ending it where
the signal arrives, instead of raising an exception, is the only way that no library can swallow.
"""

import contextlib
import os
import signal
import sys
import threading
from typing import Any

_STOPPING = (signal.SIGTERM, signal.SIGINT)


def end_at_once() -> None:
    """Let SIGTERM and SIGINT end this process from now on.

    It prints one line and has the exit code of the shell, 143 or 130.
    """
    for number in _STOPPING:
        signal.signal(number, _end)


def _end(number: int, frame: Any) -> None:
    """End the process, as the handler of a signal."""
    name = signal.Signals(number).name
    line = (
        f"\nstopped by {name}; what was finished is kept, and the same command goes on from there\n"
    )
    with contextlib.suppress(Exception):  # the signal may have come in the middle of a print
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, line.encode())
    os._exit(128 + number)


class StopSignals:
    """A context in which `received` names the signal that asked the run to stop, once one has come.

    A second SIGINT does what it did before. In a thread other than the main one, which Python gives
    no signals, nothing is received.
    """

    def __init__(self):
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        before = self._before[number]
        if self.received and number == signal.SIGINT and callable(before):
            before(number, frame)
        self.received = signal.Signals(number).name

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
