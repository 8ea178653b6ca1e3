"""Counting network evaluations (NFE) while tracing, so that what is reported is what was spent.

A denoiser calls `record_evaluations` whenever it calls its network. JAX traces the body of a loop only once: a loop says with
`repeat_evaluations` how often it runs. `count_evaluations` collects these records while a function is traced, and the compiled function
returns the number that was found then. ::

    with count_evaluations() as tally:
        jax.eval_shape(walk, x)
    print(tally.total)
"""

import contextlib
import contextvars
from collections.abc import Iterator


class Tally:
    """A number of evaluations, filled in while tracing."""

    total: int = 0


_tally: contextvars.ContextVar[Tally | None] = contextvars.ContextVar("tally", default=None)
_times: contextvars.ContextVar[int] = contextvars.ContextVar("times", default=1)


def record_evaluations(evaluations: int = 1) -> None:
    """Record that the network is called `evaluations` times for each sample."""
    if (tally := _tally.get()) is not None:
        tally.total += evaluations * _times.get()


@contextlib.contextmanager
def repeat_evaluations(times: int) -> Iterator[None]:
    """Count each evaluation that is recorded inside as `times` evaluations."""
    token = _times.set(_times.get() * times)
    try:
        yield
    finally:
        _times.reset(token)


@contextlib.contextmanager
def count_evaluations() -> Iterator[Tally]:
    """Collect the evaluations that are recorded inside, and keep them from a tally outside."""
    tally, times = _tally.set(Tally()), _times.set(1)
    try:
        yield _tally.get()  # pyright: ignore[reportReturnType]
    finally:
        _tally.reset(tally)
        _times.reset(times)
