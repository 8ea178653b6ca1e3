"""Counting network evaluations (NFE) while tracing: the number reported is the number spent.

A denoiser calls `record_evaluations` whenever it calls its network. JAX traces the body of a loop
only once, so a loop says with `repeat_evaluations` how often it runs. `count_evaluations` collects
these records while a function is traced, and the compiled function returns the number that was
counted then. ::

    with count_evaluations() as tally:
        jax.eval_shape(walk, x)
    print(tally.total)
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any


class Tally:
    """A number of evaluations, filled in while tracing."""

    total: int = 0


_tally: contextvars.ContextVar[Tally | None] = contextvars.ContextVar("tally", default=None)
_times: contextvars.ContextVar[int] = contextvars.ContextVar("times", default=1)


def record_evaluations(evaluations: int = 1) -> None:
    """Record that the network is called `evaluations` times for each sample."""
    if (tally := _tally.get()) is not None:
        tally.total += evaluations * _times.get()


def evaluate(network: Callable, *args: Any) -> Any:
    """Return `network(*args)`; a call that records nothing counts as one evaluation."""
    with count_evaluations() as tally:
        result = network(*args)
    record_evaluations(max(tally.total, 1))
    return result


@contextlib.contextmanager
def repeat_evaluations(times: int) -> Iterator[None]:
    """Multiply every evaluation that is recorded in this context by `times`."""
    token = _times.set(_times.get() * times)
    try:
        yield
    finally:
        _times.reset(token)


@contextlib.contextmanager
def count_evaluations() -> Iterator[Tally]:
    """Collect the evaluations that are recorded in this context.

    A count around it does not see them.

    Yields:
        A Tally, whose total grows as evaluations are recorded.
    """
    tally, times = _tally.set(Tally()), _times.set(1)
    try:
        yield _tally.get()  # pyright: ignore[reportReturnType]
    finally:
        _tally.reset(tally)
        _times.reset(times)
