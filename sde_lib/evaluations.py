"""Counting network evaluations (NFE) while tracing, so that what is reported is what was spent.

Whoever calls a network, or an exact denoiser in its place, says so with `evaluated`; a loop that traces its body once says how often
it runs with `repeated`; `counting` collects what is said while a function is traced. Compiled functions return the number found then.
"""

import contextlib
import contextvars
from collections.abc import Iterator


class Tally:
    """A number of evaluations, filled in while tracing."""

    total: int = 0


_tally: contextvars.ContextVar[Tally | None] = contextvars.ContextVar("tally", default=None)
_times: contextvars.ContextVar[int] = contextvars.ContextVar("times", default=1)


def evaluated(evaluations: int = 1) -> None:
    """Record evaluations of the network."""
    if (tally := _tally.get()) is not None:
        tally.total += evaluations * _times.get()


@contextlib.contextmanager
def repeated(times: int) -> Iterator[None]:
    """Count every evaluation traced inside as many."""
    token = _times.set(_times.get() * times)
    try:
        yield
    finally:
        _times.reset(token)


@contextlib.contextmanager
def counting() -> Iterator[Tally]:
    """Collect the evaluations traced inside, and only there."""
    tally, times = _tally.set(Tally()), _times.set(1)
    try:
        yield _tally.get()  # pyright: ignore[reportReturnType]
    finally:
        _tally.reset(tally)
        _times.reset(times)
