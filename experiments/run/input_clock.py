"""How long training waits for its data."""

import contextlib
import time
from collections.abc import Iterator

import jax

INPUT_SHARE = "train/input_share"


class InputClock:
    """Measures which share of the wall time the loop of training spends on fetching batches.

    That is the time until a batch was read and handed to the devices. Where the devices compute
    meanwhile, they wait for less.
    """

    def __init__(self):
        self._since = time.perf_counter()
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as spent on input."""
        began = time.perf_counter()
        with jax.profiler.TraceAnnotation("next batch"):
            yield
        self._waited += time.perf_counter() - began

    def entry(self) -> dict[str, float]:
        """Return the entry of the log: the share since the last one."""
        now = time.perf_counter()
        share = self._waited / (now - self._since)
        self._since = now
        self._waited = 0.0
        return {INPUT_SHARE: share}
