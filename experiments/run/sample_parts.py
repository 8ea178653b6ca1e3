"""Finishing the parts of a job of samples: what is stored of a part is kept, the rest is drawn.

A part is written after every call of what draws, so that a job that is stopped anywhere goes on
there; see `storage.parts`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import RunError
from ..storage.parts import Part, save_part, stored_part
from .blocks import block_size, whole_blocks
from .build import Run
from .messages import skip


class PartJob(NamedTuple):
    """What has to be known to finish a part."""

    run: Run
    sampler: str
    drawing: Callable[..., tuple[np.ndarray, int]]  # (index, report) -> samples, evaluations
    devices: int  # that draw a block each
    path: Path
    first: int  # sample of the part
    size: int  # how many samples a full part holds
    number: int  # of the samples of all parts

    @property
    def needed(self) -> int:
        """How many samples of the part belong to the job."""
        return min(self.size, self.number - self.first)


def part_size(run: Run) -> int:
    """Return how many samples a part holds: a batch, of whole blocks where there are blocks."""
    block = block_size(run) or 1
    return block * whole_blocks(run.config.sampling.batch_size, block)


def finished_part(job: PartJob, bar: Any) -> Part:
    """Return a part with all samples that are needed; draw and store those that it lacks.

    Args:
        job: the part.
        bar: a progress bar over the samples of all parts.

    Raises:
        RunError: samples that are not finite, or no room for them.
    """
    facts = job.run.facts
    nothing = facts.codec.decode(np.zeros((0, *facts.shape), np.float32))
    part = stored_part(job.path, like=nothing)
    skip(bar, min(len(part.x), job.needed))
    while len(part.x) < job.needed:
        index = job.first + _next_places(job, len(part.x))
        report = _Report(bar, done=bar.n, count=len(index), number=job.number)
        part = part.with_more(_draw(job, index, report))
        _store(job.path, part, kept=int(index[0]))
        bar.update(min(job.first + len(part.x), job.number) - bar.n)
    return part


class _Report(NamedTuple):
    """Moves a bar while `count` samples are drawn, of which those before `number` count."""

    bar: Any
    done: int
    count: int
    number: int

    def __call__(self, step: int, steps: int) -> None:
        now = self.done + self.count * step // steps
        self.bar.update(min(now, self.number) - self.bar.n)


def _next_places(job: PartJob, done: int) -> np.ndarray:
    """Return the places in a part whose samples are drawn next: those of a block on each device.

    Without blocks they are all that the part can hold, though a job may need fewer of its last
    part, for which another program would have to be compiled.

    Args:
        job: the part.
        done: how many samples of the part are there.
    """
    block = block_size(job.run)
    if not block:
        return np.arange(done, min(job.size, job.number))
    stop = (done // block + job.devices) * block
    return np.arange(done, min(stop, job.needed))


def _draw(job: PartJob, index: np.ndarray, report: Callable[[int, int], None]) -> Part:
    """Draw the samples `index`, in raw values."""
    start = time.perf_counter()
    x, nfe = job.drawing(index, report)
    if not np.isfinite(x).all():
        raise RunError(
            f"{job.sampler!r} gave samples that are not finite, from number {index[0]} on; "
            "try more steps or a smaller snr"
        )
    return Part(x=job.run.facts.codec.decode(x), nfe=nfe, seconds=time.perf_counter() - start)


def _store(path: Path, part: Part, kept: int) -> None:
    """Write a part; `kept`: the number of the first sample that was not there."""
    try:
        save_part(path, part)
    except OSError as error:
        raise RunError(
            f"cannot write samples ({error}); those before number {kept} are kept: make room, or "
            "get the right to write there, and start the same command again"
        ) from error
