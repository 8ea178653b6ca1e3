"""Maps over a batch that need the memory of a part of it: what is kept for a gradient is large."""

import math
from collections.abc import Callable
from typing import Any

import jax

from ..evaluations import count_evaluations, record_evaluations

PARTS = 8  # in which a gradient of a network needs about the memory of the network alone


def map_in_parts(fn: Callable, parts: int, *batched: Any) -> Any:
    """Map a function of one sample over a batch, one part of the batch after the other.

    Samples that lie side by side are in different parts, so that a batch which is split over
    devices stays where it is.

    Args:
        fn: takes one sample of each argument.
        parts: at most; their number divides the batch.
        batched: pytrees of arrays (batch, ...).
    """
    batch = len(jax.tree.leaves(batched)[0])
    parts = math.gcd(batch, parts)
    if parts == 1:
        return jax.vmap(fn)(*batched)

    def apart(a):
        return a.reshape(batch // parts, parts, *a.shape[1:]).swapaxes(0, 1)

    def together(a):
        return a.swapaxes(0, 1).reshape(batch, *a.shape[2:])

    with count_evaluations() as tally:  # of a sample: the parts are traced once
        result = jax.lax.map(lambda part: jax.vmap(fn)(*part), jax.tree.map(apart, batched))
    record_evaluations(tally.total)
    return jax.tree.map(together, result)
