"""A trace of some training steps, as https://ui.perfetto.dev opens it.

The trace shows what each device computes and what the host does meanwhile: the steps by their
numbers, and the fetching of each batch. It is written by JAX's profiler, in the layout that
TensorBoard's profile plugin reads as well.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from .messages import quoted, say

WARM_UP = 2  # steps before the trace: the first waits for its compilation, the second fills buffers
FOLDER = "profile"  # of a run directory
TRACE = "perfetto_trace.json.gz"


def newest_trace(folder: Path) -> Path:
    """Return the trace for Perfetto that was written into a folder last."""
    return max(folder.rglob(TRACE), key=lambda path: path.stat().st_mtime_ns)


def start_trace(folder: Path) -> None:
    """Begin a trace of devices and host, without every call of a Python function."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # which would fill the trace and slow the host down
    jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)


class StepProfile:
    """A context that traces `steps` steps of a training that goes on from step `start`; 0: none.

    The trace begins after `WARM_UP` steps. It changes nothing in what is computed.
    """

    def __init__(self, workdir: Path, start: int, steps: int):
        self._folder = workdir / FOLDER
        self._first = start + WARM_UP + 1
        self._end = self._first + steps
        self._reached = start
        self._due = steps > 0
        self._tracing = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Name what is done within as a step; begin or end the trace before it, if that is due."""
        if self._tracing and number == self._end:
            self._finish()
        if self._due and number == self._first:
            _wait()
            start_trace(self._folder)
            self._due = False
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._reached = number

    def __enter__(self) -> "StepProfile":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._tracing:
            self._finish()
        elif self._due:
            say(f"no profile: it begins with step {self._first}, and training ended before")

    def _finish(self) -> None:
        """End the trace, and say where it is."""
        _wait()
        self._tracing = False
        jax.profiler.stop_trace()
        say(
            f"profile of steps {self._first} to {self._reached}: open "
            f"{newest_trace(self._folder)} at https://ui.perfetto.dev (or tensorboard "
            f"--logdir={quoted(self._folder)}, with its profile plugin)"
        )


def _wait() -> None:
    """Wait until the devices have done what they were given."""
    jax.block_until_ready(jax.live_arrays())
