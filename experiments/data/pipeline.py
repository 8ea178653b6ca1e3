"""From a data set to batches: a pure function of (seed, position), read ahead by grain.

Training examples follow one another in an endless stream: in epoch e the examples in the order of
the permutation drawn from (seed, e), or every class in turn (`balanced`). Held-out examples come in
their own order. The noise of the example at position p of the stream is block p of a counter-based
generator (Philox; Salmon et al. 2011) with key (seed, stream), whatever the batch size. A batch
thus depends on the number of batches before it and on nothing else: that number is all that
``get_state`` returns, and a resumed run is bitwise the one never stopped.
"""

import functools
import os
import sys

import grain
import numpy as np

from .balanced import balanced_rows
from .base import DataSet, check_facts, read_checked, read_conditions
from .settings import LARGEST_SEED, check_whole

# Threads that decode images, and batches in the making or waiting: enough to hide them behind a
# training step, few enough for memory. They are not part of the iterator's state.
READ_AHEAD = grain.ReadOptions(num_threads=min(4, os.cpu_count() or 1), prefetch_buffer_size=4)


def batches(
    dataset: DataSet,
    split: str,
    batch_size: int,
    *,
    seed: int,
    train: bool,
    flip: bool = False,
    balance: bool = False,
    part: tuple[int, int] = (0, 1),
) -> grain.DatasetIterator:
    """Iterate over the batches of a split.

    A batch is ``{"x": float32 (B, *shape) in model range, "label": int32 (B,)}``, with the
    conditions as "cond", ``float32 (B, *cond_shape)``, where the data set has any.

    Args:
      dataset: the data set.
      split: one of its splits.
      batch_size: examples in a batch.
      seed: of the order and of the noise.
      train: True: shuffle, anew in each epoch, and repeat for ever; a batch may reach into the next
        epoch, so that no example is dropped. False: one pass in order with every example once, the
        last batch shorter.
      flip: mirror each image, and an image that is its condition, left to right with probability
        one half (training only).
      balance: draw every class equally often, however many examples it has (training only). The
        labels of the split are read once, before the first batch.

      part: (i, n): the iterator yields the rows of the i-th of n equal parts of each batch. Together
        they are the batches that there are without parts (training only).

    Returns:
      An iterator whose ``get_state()`` (plain JSON) and ``set_state(state)`` resume it bitwise.

    Raises:
      ValueError: unknown split, a batch larger than the training split, flips or balance where they
        make no sense; on reading, an example that has the wrong shape or values.
    """
    check_facts(dataset)
    batch_size = check_whole("batch_size", batch_size, 1)
    seed = check_whole("seed", seed, 0, LARGEST_SEED)
    source = dataset.source(split)
    size = len(source)
    dim = int(np.prod(dataset.shape))
    _check_size(split, size, batch_size, train)
    if flip and not (train and len(dataset.shape) == 3):
        raise ValueError(
            f"flip mirrors training images (H, W, C); got train={train} and examples of shape "
            f"{dataset.shape}"
        )
    if balance and not (train and dataset.num_classes):
        raise ValueError(
            f"balance draws the classes of training data equally often; got train={train} and data "
            f"of {dataset.num_classes} classes"
        )

    number_of_part, parts = part
    if parts > 1 and not (train and batch_size % parts == 0):
        raise ValueError(
            f"a training batch of {batch_size} cannot be read in {parts} equal parts; choose a "
            f"batch_size that is a multiple of {parts}"
        )

    @functools.lru_cache(maxsize=2)  # a batch touches at most two epochs
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(size)

    balanced_row = balanced_rows(dataset, split, seed)

    def row(position: int) -> int:
        if balance:
            return balanced_row(position)
        epoch, offset = divmod(position, size)
        return int(order(epoch)[offset]) if train else position

    def batch(number: int) -> dict[str, np.ndarray]:
        count = batch_size // parts
        first = number * batch_size + number_of_part * count
        last = first + count if train else min(first + count, size)
        rows = [row(position) for position in range(first, last)]
        x, label = read_checked(dataset, split, source, rows)
        cond = read_conditions(dataset, split, source, rows)
        # One word a value, and one for the flip.
        words = random_words(seed, int(train), first, last - first, dim + 1)
        if flip:
            mirrored = words[:, -1] >> 15 == 1
            x[mirrored] = x[mirrored, :, ::-1]
            if cond is not None and cond.ndim == 4:
                cond[mirrored] = cond[mirrored, :, ::-1]
        values = {"x": dataset.codec.encode(x, words[:, :-1].reshape(x.shape)), "label": label}
        return values if cond is None else values | {"cond": cond}

    count = sys.maxsize if train else -(-size // batch_size)
    return iter(grain.MapDataset.range(count).map(batch).to_iter_dataset(READ_AHEAD))


def _check_size(split: str, size: int, batch_size: int, train: bool) -> None:
    """Raise a ValueError if a split of ``size`` examples is empty, or too small to train."""
    if size == 0:
        raise ValueError(f"split {split!r} is empty; choose another one")
    if train and batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} is larger than split {split!r}, which has {size} examples; "
            "lower batch_size"
        )


def random_words(seed: int, stream: int, first: int, count: int, width: int) -> np.ndarray:
    """Return uniform uint16 words (count, width).

    They are the blocks first, first + 1, ... of the generator with key (seed, stream).
    """
    steps = -(-width // 16)  # a step of Philox's counter yields 4 x 64 bits
    raw = np.random.Philox(key=[seed, stream], counter=first * steps).random_raw(count * steps * 4)
    return raw.view(np.uint16).reshape(count, steps * 16)[:, :width]
