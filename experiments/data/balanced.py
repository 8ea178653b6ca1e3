"""Training examples of which every class comes equally often.

The stream is cut into blocks, in which each class that occurs comes once, in the order of the
permutation drawn from (seed, block). So block b holds the b-th example of every class, whose
examples come in the order of the permutation drawn from (seed, class, epoch), each once before any
comes again. The row at a position is thus a function of (seed, position), as `pipeline` needs it,
and each position shows every class with the same probability, and each example of it too.
"""

import functools
import threading
from collections.abc import Callable

import numpy as np

from .base import DataSet
from .streaming import blocks

# What a permutation is of, in its seed.
BLOCKS = 1
CLASSES = 2


def balanced_rows(dataset: DataSet, split: str, seed: int) -> Callable[[int], int]:
    """Return the function from a position in the stream to the row of its example in a split.

    The labels are read when it is called first; it may be called from several threads.
    """
    lock = threading.Lock()

    @functools.cache
    def classes_in_turn() -> Callable[[int], int]:
        labels = np.concatenate([block.label for block in blocks(dataset, split)])
        return take_turns(labels, seed)

    def row(position: int) -> int:
        with lock:  # so that one thread reads and the others wait
            row_at = classes_in_turn()
        return row_at(position)

    return row


def take_turns(labels: np.ndarray, seed: int) -> Callable[[int], int]:
    """Return the function from a position to a row, for the labels of all rows.

    Args:
        labels: of all examples, (n,) whole numbers; classes without examples never come.
        seed: of the order.
    """
    classes = np.unique(labels)
    rows = [np.flatnonzero(labels == label) for label in classes]

    @functools.lru_cache(maxsize=64)
    def classes_of_block(block: int) -> np.ndarray:
        return np.random.default_rng([seed, BLOCKS, block]).permutation(len(classes))

    @functools.lru_cache(maxsize=2 * len(classes))
    def examples_of_class(number: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, CLASSES, number, epoch]).permutation(rows[number])

    def row(position: int) -> int:
        block, place = divmod(position, len(classes))
        number = int(classes_of_block(block)[place])
        epoch, offset = divmod(block, len(rows[number]))
        return int(examples_of_class(number, epoch)[offset])

    return row
