"""Being asked to stop: SIGTERM and SIGINT end a run at the next step, with a checkpoint; a second SIGINT ends it at once.

Only the main thread of a process can receive signals; in any other thread nothing is caught, and nothing is changed.
"""

import signal
import threading
from typing import Any


class StopSignals:
    """A context in which `received` names the signal that asked the run to stop, once one has come."""

    def __init__(self):
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
