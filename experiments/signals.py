"""Being asked to stop: SIGTERM and SIGINT end a run at the next step, with a checkpoint; a second SIGINT ends it at once."""

import signal
from typing import Any


class StopSignals:
    """A context in which `received` names the signal that asked the run to stop, once one has come."""

    def __init__(self):
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
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
