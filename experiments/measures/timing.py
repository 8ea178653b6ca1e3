"""Timing on a machine that is never quite quiet.

Candidates take turns, and the median over the rounds of each is compared.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


class Timing(NamedTuple):
    """Seconds of one call over the rounds."""

    median: float
    quartile_deviation: float  # half the distance between the quartiles


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, Timing]:
    """Time each candidate once a round, in turn, after one call to compile it, which is reported."""
    for name, call in candidates.items():
        print(f"  compiled {name} in {seconds_of(call):.1f} s", flush=True)
    seconds = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            seconds[name].append(seconds_of(call))
    quartiles = {name: np.quantile(values, [0.25, 0.5, 0.75]) for name, values in seconds.items()}
    return {
        name: Timing(median=middle, quartile_deviation=(high - low) / 2)
        for name, (low, middle, high) in quartiles.items()
    }


def seconds_of(call: Callable[[], object]) -> float:
    """Return the seconds until the result of a call is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
