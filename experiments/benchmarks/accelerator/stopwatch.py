"""Timing where work is asynchronous: many calls in a row, and one wait at the end."""

import time
from collections.abc import Callable

import jax
import numpy as np

from ..timing import Timing, seconds_of

LEAST = 0.3  # seconds of one round, so that the wait at its end does not count


def seconds_each(call: Callable[[], object], rounds: int) -> Timing:
    """Return the seconds of one call: median over rounds, and half the distance between the quartiles. It has to be compiled before."""
    seconds_of(call)
    once = seconds_of(call)
    count = max(1, round(LEAST / max(once, 1e-6)))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / count)
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return Timing(float(middle), float(high - low) / 2)
