"""How training ends: well, by a signal or a callback, by a file or a process that is lost, or by
numbers that are no longer finite.
"""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ..errors import RunError
from ..processes import are_several
from ..storage.checkpoint import Checkpoints, last_good
from .build import Run
from .callbacks import Stop
from .messages import quoted, say, say_next

_norm = jax.jit(optax.tree.norm)


class End(NamedTuple):
    """Where and why the loop of training ended."""

    step: int
    stop: Stop | None  # by a callback
    asked: str  # by which signal; "" if by none


def say_how_it_ended(run: Run, workdir: Path, end: End) -> None:
    """Say how training ended; raise a RunError if a callback failed."""
    if end.stop and end.stop.error:
        raise RunError(
            f"{end.stop.reason}; the checkpoint of that step is saved. Mend the callback; the same "
            "command goes on from there."
        ) from end.stop.error
    reason = end.stop.reason if end.stop else None
    if end.asked:
        reason = f"by {end.asked}"
    if reason and end.step < run.config.train.steps:
        say(
            f"stopped at step {end.step} {reason}; checkpoint saved. The same command goes on from "
            "there."
        )
        return
    say(
        f"trained {end.step} steps; checkpoints, metrics.jsonl and tensorboard are in {workdir} "
        f"(to see the losses: tensorboard --logdir={quoted(workdir)})"
    )
    if run.classifies:
        say(
            f"to guide a denoiser with it: --mode=sample --config.guidance.name=ClassifierGuidance "
            f"--config.guidance.classifier={quoted(workdir)} --config.guidance.scale=1"
        )
    else:
        say_next(workdir, "sample")


@contextlib.contextmanager
def stopping_well(workdir: Path):
    """Say where a run can go on from if it cannot read or write a file, or loses another process."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not are_several():
            raise
        raise RunError(
            f"training stopped, as another process ended or failed ({str(error)[:200]}); "
            f"{last_good(workdir)}. Start all processes again to go on from there."
        ) from error
    except OSError as error:
        raise RunError(
            f"training stopped ({error}); {last_good(workdir)}. Mend the cause; the same command "
            "goes on from there."
        ) from error


def check_finite(
    window: list, params: Any, step: int, checkpoints: Checkpoints
) -> dict[str, float]:
    """Return the means of the metrics in `window`; raise a RunError if any is not finite."""
    loss, grad_norm = np.asarray(jax.device_get([(m.loss, m.grad_norm) for m in window])).T
    good = np.isfinite(loss) & np.isfinite(grad_norm)
    good[-1] &= np.isfinite(_norm(params))  # as a checkpoint would keep them
    if not good.all():
        checkpoints.wait()
        first = step - len(window) + 1 + int(np.argmin(good))
        raise RunError(
            f"the loss, its gradient or the parameters are no longer finite from step {first} on "
            f"(seen at step {step}); {last_good(checkpoints.directory.parent)}. Lower "
            "--config.optim.lr, or set --config.optim.clip."
        )
    return {"train/loss": float(loss.mean()), "train/grad_norm": float(grad_norm.mean())}
