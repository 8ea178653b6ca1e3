"""Timing where work is asynchronous: many calls in a row, and one wait at the end."""

import time
from collections.abc import Callable

import jax
import numpy as np

from ...measures.timing import Timing

LEAST = 0.3  # seconds of one round, so that the wait at its end does not count


def seconds_each(
    call: Callable[[], object],
    rounds: int,
    wait: Callable[[object], object] = jax.block_until_ready,
) -> Timing:
    """Return the seconds of one call, which has to be compiled before.

    Args:
        call: what is timed.
        rounds: how often many calls in a row are timed.
        wait: is given the last result, and returns when all work is done.
    """

    def seconds_of(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        wait(result)
        return (time.perf_counter() - start) / count

    seconds_of(3)  # what a library still chooses at its first calls
    count = max(1, round(LEAST / max(seconds_of(1), 1e-6)))
    low, middle, high = np.quantile([seconds_of(count) for _ in range(rounds)], [0.25, 0.5, 0.75])
    return Timing(median=float(middle), quartile_deviation=float(high - low) / 2)
