"""The loop of --mode=train, as it runs: what input and checkpoints cost, and how soon it is back.

Random images of grey levels are written as a data set, and a training goes through them with its own
reading ahead. Checkpoints are written at every second entry of the log, so that stretches with one
and without one take turns. Then the same command is started again, in a process of its own.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ...errors import RunError
from ...modes.train import train
from ...run.build import Run
from ...run.input_clock import INPUT_SHARE

# Entries of the log: the first compiles, the others are without and with a checkpoint in turn.
STRETCHES = 8
FIRST_STEP = "compiled, and the first step made"  # what training says then
EXAMPLES = 2048


class Stretch(NamedTuple):
    """The steps between two entries of the log."""

    wall: float  # seconds
    processor: float  # seconds of this process, on all cores
    input_share: float


class Watch:
    """A callback of training that remembers when it was called."""

    def __init__(self):
        self.stretches: list[Stretch] = []
        self._last = self._now()

    def __call__(self, step: int, metrics: Mapping[str, float], snapshot: Any) -> None:
        """Take note of an entry of the log."""
        wall, processor = self._now()
        stretch = Stretch(
            wall=wall - self._last[0],
            processor=processor - self._last[1],
            input_share=metrics[INPUT_SHARE],
        )
        self.stretches.append(stretch)
        self._last = (wall, processor)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def measure_loop(run: Run, batch: int, block: int) -> Iterator[dict[str, Any]]:
    """Train a run's network, and yield what was measured.

    Args:
        run: the run, whose data are replaced.
        batch: images of a step.
        block: steps between two entries of the log.

    Raises:
        RunError: a signal stopped the training.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        config = training_config(run, Path(folder) / "images.npy", batch, block)
        watch = Watch()
        train(config, workdir, callbacks=[watch])
        stretches = watch.stretches[1:]
        if len(stretches) < STRETCHES - 1:
            raise RunError("the training was stopped, so that nothing was measured; start again")
        yield {
            "what": "input",
            "share": float(np.mean([stretch.input_share for stretch in stretches])),
            "steps": block * len(stretches),
        }
        yield {
            "what": f"a checkpoint every {block} steps",
            "wall_over_without": with_over_without([s.wall for s in stretches]),
            "processor_over_without": with_over_without([s.processor for s in stretches]),
            "seconds_of_a_stretch": float(np.median([s.wall for s in stretches])),
        }
        for what in ("start again", "start again, the second time"):
            config.train.steps += 1
            yield {"what": what, **started_again(workdir, config.train.steps)}


def training_config(run: Run, images: Path, batch: int, block: int) -> ConfigDict:
    """Write random images, and return the configuration of a training on them."""
    rng = np.random.default_rng(0)
    np.save(images, rng.integers(0, 256, (EXAMPLES, *run.facts.shape), np.uint8))
    config = run.config.copy_and_resolve_references().unlock()
    config.data = {"name": "Files", "path": str(images)}
    config.facts = {}
    config.denoiser.sigma_data = 0.0
    config.eval.split = "validation"
    config.train.update(
        {
            "steps": STRETCHES * block,
            "batch_size": batch,
            "log_every": block,
            "checkpoint_every": 2 * block,
            "held_out": "",
        }
    )
    return config


def with_over_without(seconds: list[float]) -> float:
    """Return the mean ratio of each second entry to the mean of its two neighbours.

    The first stretch, and each second one from there, is without a checkpoint: that of step 2 block
    is written while the steps after it are made. The first checkpoint, which also imports the
    libraries that write it, does not count.
    """
    ratios = [
        2 * seconds[i] / (seconds[i - 1] + seconds[i + 1]) for i in range(3, len(seconds) - 1, 2)
    ]
    return float(np.mean(ratios))


def started_again(workdir: Path, steps: int) -> dict[str, float]:
    """Go on with a training in a process of its own, to so many steps; return what it took.

    The seconds until its first step was made are those of a clock, and depend on what else the
    machine does; those of processors are of the whole process.
    """
    command = [sys.executable, "-m", "experiments.main", f"--workdir={workdir}", "--mode=train"]
    before = _processor_seconds_of_children()
    began = time.perf_counter()
    seconds = float("nan")
    process = subprocess.Popen(
        [*command, f"--config.train.steps={steps}"], stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stdout or ():
            if line.startswith(FIRST_STEP):
                seconds = time.perf_counter() - began
    return {
        "seconds_to_first_step": seconds if process.returncode == 0 else float("nan"),
        "processor_seconds": _processor_seconds_of_children() - before,
    }


def _processor_seconds_of_children() -> float:
    """Return the processor seconds of all processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
