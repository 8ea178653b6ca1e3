"""Blocks: the sizes in which images are computed, whatever the batch and the devices.

A program of another shape may round otherwise, which now and then moves a pixel by a grey level. So
images of grey levels are always computed in whole blocks: image i at place i % block of the block
i // block, which one device computes in one program. Then image i is the same to the last level in
any batch, on any number of devices, and alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .devices import count_devices

if TYPE_CHECKING:
    from .build import Run


def block_size(run: "Run") -> int:
    """Return how many samples a device computes together; 0 if the batch decides.

    The batch does so for data without grey levels, which are the same but for rounding.
    """
    return 0 if run.facts.levels is None else run.config.sampling.block


def whole_blocks(count: int, block: int) -> int:
    """Return the number of blocks that hold `count` samples from the first place of a block on."""
    return -(-count // block)


def devices_for(run: "Run", count: int) -> int:
    """Return on how many devices `count` samples are drawn: a block at a time on each."""
    devices = count_devices(run.config.devices)
    return min(devices, whole_blocks(count, block_size(run) or 1))


def rounds(index: np.ndarray, block: int, devices: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the samples that are computed at once, as many in each round.

    Args:
        index: the numbers (batch,) of the samples that are asked for.
        block: samples of a block.
        devices: blocks of a round.

    Yields:
        The numbers (devices * block,) of whole blocks, which together hold `index`. The last round
        repeats its last block where there are no more.
    """
    blocks = np.unique(np.asarray(index) // block)
    for first in range(0, len(blocks), devices):
        some = blocks[first : first + devices]
        full = np.pad(some, (0, devices - len(some)), mode="edge")
        yield (full[:, None] * block + np.arange(block)).ravel()
