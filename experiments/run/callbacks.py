"""Hooks into training: loggers, measurements of one's own, early stopping.

A callback is any callable (step, metrics, snapshot). It is called whenever numbers are logged,
after they are known to be finite: every `train.log_every` and `train.held_out_every` steps, at
checkpoints and at the end. `metrics` holds what is logged: ``train/loss``, ``train/grad_norm``,
``train/seconds`` (since step 0, where they are known), ``train/input_share`` (of the time since the
last entry) and, where it was measured, ``held_out/loss`` with its parts. What it returns is ignored. Weights &
Biases::

    import wandb

    wandb.init(project="digits", config=config.to_dict())
    train(config, "runs/digits", callbacks=[lambda step, metrics, _: wandb.log(metrics, step=step)])

A callback that raises `StopTraining` ends the run early, with a checkpoint. Any other exception of
a callback ends it in a `RunError` that names the callback, after the checkpoint was written: no
step is lost to a logger. Callbacks change nothing in what is trained, so that a run goes on bitwise
with other callbacks or none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sde_lib import Denoiser

from ..state import TrainState
from .build import Run


class StopTraining(Exception):
    """Raised by a callback to end a run early; its message says why."""


class Snapshot(NamedTuple):
    """What a callback may look at.

    The next step overwrites the arrays of `state`: copy what you keep (``np.asarray``).
    """

    workdir: Path
    run: Run  # the configuration (run.config), the process and the network
    state: TrainState

    def denoiser(self) -> Denoiser:
        """Return the denoiser with the averaged weights."""
        return self.run.denoiser(self.state.ema)


Callback = Callable[[int, Mapping[str, float], Snapshot], object]


class Stop(NamedTuple):
    """Why a callback ended the run."""

    reason: str
    error: Exception | None  # None: the callback raised `StopTraining`


def check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Return the callbacks.

    Raise a ValueError unless they are a sequence of callables, before a step is made.
    """
    if callable(callbacks) or not all(callable(callback) for callback in callbacks):
        raise ValueError(
            "callbacks is a list of functions (step, metrics, snapshot), such as [log], got "
            f"{callbacks!r}"
        )
    return tuple(callbacks)


def call(
    callbacks: Sequence[Callback], step: int, metrics: Mapping[str, float], snapshot: Snapshot
) -> Stop | None:
    """Call each callback with metrics of its own.

    Return why the run has to end, if it has to, with the first that says so.
    """
    stop = None
    for callback in callbacks:
        name = getattr(callback, "__name__", type(callback).__name__)
        try:
            callback(step, dict(metrics), snapshot)
        except StopTraining as request:
            reason = f"by {name}: {request}" if str(request) else f"by {name}"
            stop = stop or Stop(reason=reason, error=None)
        except Exception as error:
            failure = f"the callback {name} failed at step {step} ({type(error).__name__}: {error})"
            if not stop or not stop.error:
                stop = Stop(reason=failure, error=error)
    return stop


class EarlyStopping:
    """Stop when a metric has not fallen below its lowest value for a number of measurements.

    A run that goes on later counts from its own start: what was lowest before is not kept in
    checkpoints.

    Args:
        metric: the name of a logged number.
        patience: how many measurements in a row may pass without a new lowest value.
        min_delta: by how much a value has to be lower to count as a new lowest one.
    """

    def __init__(self, metric: str = "held_out/loss", patience: int = 5, min_delta: float = 0.0):
        if patience < 1 or not min_delta >= 0:
            raise ValueError(
                f"need patience >= 1 and min_delta >= 0, got {patience} and {min_delta}"
            )
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self._lowest = math.inf
        self._waited = 0

    def __call__(self, step: int, metrics: Mapping[str, float], snapshot: Snapshot) -> None:
        """Look at the metric where it was measured."""
        value = metrics.get(self.metric)
        if value is None:
            self._check_name(metrics, snapshot)
            return
        if value < self._lowest - self.min_delta:
            self._lowest = value
            self._waited = 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            raise StopTraining(
                f"{self.metric} has not fallen below {self._lowest:.4g} for {self._waited} "
                "measurements"
            )

    def _check_name(self, metrics: Mapping[str, float], snapshot: Snapshot) -> None:
        """Raise a ValueError if the metric will not come later either."""
        if self.metric.startswith("held_out/") and snapshot.run.config.train.held_out:
            return
        raise ValueError(
            f"there is no number {self.metric!r} to stop by; there are {', '.join(metrics)}, "
            "and held_out/loss where train.held_out names a split"
        )
