"""Blocks: the sizes in which images are computed, whatever the batch and the devices.

A program of another shape rounds otherwise, and so does one that the compiler has split over
devices, which now and then moves a pixel by a grey level. So images of grey levels are computed in
whole blocks: image i at place i % block of the block i // block. Each device runs one program on
one block (`jax.shard_map`), which is the same program on any number of devices. Then image i is the
same to the last bit in any batch, on any number of devices, and alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import PartitionSpec

from samplers import draw_prior
from sde_lib import Denoise

from .conditions import sampled_conditions
from .devices import AXIS, count_devices, fitting_mesh, replicate, share
from .walks import make_walk

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


class BlockProgram:
    """The compiled program that walks from noise to images, a block on each device."""

    def __init__(self, run: "Run", denoise: Denoise, setting: Any, devices: int):
        """Prepare the program; it is compiled at its first call.

        Args:
            run: the run.
            denoise: the denoise function to walk with, a pytree.
            setting: an entry of `config.samplers`.
            devices: on how many of them.
        """
        walk = make_walk(setting, run.sde, run.config.denoiser.sigma_data)
        key = jax.random.key(run.config.sampling.seed)
        arrays, rest = eqx.partition(denoise, eqx.is_array)

        def on_a_device(arrays, numbers, cond):
            x = draw_prior(key, run.sde, (len(numbers), *run.facts.shape), numbers)
            denoise: Any = eqx.combine(arrays, rest)
            samples = walk(key, denoise, run.sde, x, cond=cond, index=numbers)
            return samples.x, jax.lax.pmax(samples.nfe, AXIS)

        whole = PartitionSpec()
        split = PartitionSpec(AXIS)
        self._run = run
        self._block = block_size(run)
        self._devices = devices
        self._mesh = fitting_mesh(devices, devices)
        self._arrays = replicate(self._mesh, arrays)
        self._program = jax.jit(
            jax.shard_map(
                on_a_device,
                mesh=self._mesh,
                in_specs=(whole, split, split),
                out_specs=(split, whole),
                check_vma=False,
            )
        )

    def __call__(self, index: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the samples `index` (batch,) in model values, and the evaluations of each."""
        x = np.empty((len(index), *self._run.facts.shape), np.float32)
        most = 0
        for computed in rounds(index, self._block, self._devices):
            numbers: Any = share(self._mesh, computed.astype(np.int32))
            cond = share(self._mesh, sampled_conditions(self._run, numbers))
            drawn, nfe = self._program(self._arrays, numbers, cond)
            places = {number: place for place, number in enumerate(computed)}
            wanted = np.isin(index, computed)
            x[wanted] = np.asarray(drawn)[[places[number] for number in index[wanted]]]
            most = max(most, int(nfe))
        return x, most
