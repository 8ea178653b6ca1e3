"""Blocks: the sizes in which images are computed, whatever the batch and the devices.

A program of another shape rounds otherwise, and so does one that the compiler splits over devices,
which now and then moves a pixel by a grey level. So images of grey levels are computed in whole
blocks: image i at place i % block of the block i // block, by a program for one device, which any
device can run (or for one group of devices, where a group shares the weights). Then image i is the
same to the last bit in any batch, on any number of devices, and alone.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from samplers import Samples, draw_prior
from sde_lib import Denoise

from .conditions import sampled_conditions
from .devices import count_devices
from .placement import groups, replicated
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


def groups_for(run: "Run", count: int) -> int:
    """Return on how many groups of devices `count` samples are drawn: a block at a time on each.

    A group is one device, or `config.placement.fsdp` of them that share the weights.
    """
    fsdp = run.config.placement.fsdp
    available = count_devices(run.config.devices, fsdp) // fsdp
    return min(available, whole_blocks(count, block_size(run) or 1))


class BlockProgram:
    """The compiled program that walks from noise to the images of a block."""

    def __init__(self, run: "Run", denoise: Denoise, setting: Any, count: int):
        """Prepare the program; it is compiled at its first call.

        Args:
            run: the run.
            denoise: the denoise function to walk with, a pytree.
            setting: an entry of `config.samplers`.
            count: how many blocks are computed at a time, each by a group of devices.
        """
        walk = make_walk(setting, run.sde, run.config.denoiser.sigma_data)
        key = jax.random.key(run.config.sampling.seed)
        arrays, rest = eqx.partition(denoise, eqx.is_array)

        def on_a_group(arrays, numbers, cond):
            x = draw_prior(key, run.sde, (len(numbers), *run.facts.shape), numbers)
            denoise: Any = eqx.combine(arrays, rest)
            return walk(key, denoise, run.sde, x, cond=cond, index=numbers)

        self._run = run
        self._block = block_size(run)
        self._groups = groups(run.config, count)
        self._arrays = [group.put_weights(arrays) for group in self._groups]
        self._program = jax.jit(on_a_group)

    def __call__(self, index: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the samples `index` (batch,) in model values, and the evaluations of each."""
        x = np.empty((len(index), *self._run.facts.shape), np.float32)
        most = 0
        blocks = np.unique(index // self._block)
        for first in range(0, len(blocks), len(self._groups)):
            together = blocks[first : first + len(self._groups)]
            for block, samples in zip(together, self._start(together), strict=True):
                wanted = index // self._block == block
                x[wanted] = np.asarray(samples.x)[index[wanted] % self._block]
                most = max(most, int(samples.nfe))
        return x, most

    def _start(self, blocks: np.ndarray) -> list[Samples]:
        """Return the samples of blocks, which are computed at the same time, a group each."""
        started = []
        for block, group, arrays in zip(blocks, self._groups, self._arrays, strict=False):
            numbers = (block * self._block + np.arange(self._block)).astype(np.int32)
            numbers: Any = jax.device_put(numbers, replicated(group.mesh))
            cond = sampled_conditions(self._run, numbers)
            started.append(self._program(arrays, numbers, cond))
        return started
