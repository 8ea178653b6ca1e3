"""Samples of what measurements were made of, with a trained network as the prior.

`restore` is for notebooks; `--mode=restore` draws the same samples in parts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from samplers.checks import check_count
from sde_lib import check_name

from ..errors import RunError
from .conditions import CONDITIONS, conditions_of, read_conditions
from .loading import Loaded, load
from .noise import Noise, noise_of
from .observations import check_model_values
from .operators import Measured, measured_by
from .placement import placement, share
from .restoration_methods import METHODS, Observed, Problem


class Task(NamedTuple):
    """Observations, and how they are restored."""

    y: np.ndarray  # (observations, ...) in model values
    measured: Measured
    noise: Noise
    method: str  # a row of `METHODS`
    settings: dict[str, Any]  # of the method
    steps: int  # of its walk; 0: as many as suit it
    samples: int  # of each observation
    seed: int
    label: int  # the class that all of them are of; -1: not known
    condition: str  # file of conditions that are no classes; "": not known

    @property
    def walk_steps(self) -> int:
        """The number of steps of the walk."""
        return self.steps or METHODS[self.method].steps


class Part(NamedTuple):
    """Samples of one batch on the host."""

    x: np.ndarray  # (batch, ...) in model values
    nfe: int


class Restored(NamedTuple):
    """What `restore` returns, in model values."""

    x: np.ndarray  # (observations, samples, ...) samples of the posterior
    mean: np.ndarray  # (observations, ...) over the samples
    std: np.ndarray  # (observations, ...) over the samples
    chi_square: np.ndarray  # (observations,) see `chi_square`
    nfe: int  # network evaluations of each sample


def restore(
    run: Loaded | str | Path,
    y: npt.ArrayLike,
    operator: Callable[[Array], Array],
    std: npt.ArrayLike,
    method: str = "jfps",
    samples: int = 8,
    *,
    steps: int = 0,
    label: int = -1,
    condition: str = "",
    seed: int = 0,
    batch_size: int = 64,
    **settings: Any,
) -> Restored:
    """Draw samples of what the measurements y = operator(x) + noise were made of.

    Everything is in model values, which are -1 to 1 for images; of grey levels,
    `run.run.facts.codec` makes model values (`expected`), and grey levels again (`decode`)::

        run = experiments.load("runs/digits")
        restored = experiments.restore(run, y, Pool(factor=2), std=0.05)
        plt.imshow(restored.mean[0, ..., 0])

    Args:
        run: a loaded run, or its directory.
        y: one measurement, or several (observations, ...).
        operator: maps one example to its measurement; `sde_lib.inverse` has some.
        std: standard deviation of the noise, in model values: one, or one of each measured value;
            or the covariance matrix of the noise of a flattened measurement.
        method: a row of `experiments.run.restoration_methods.METHODS`.
        samples: of each observation.
        steps: of the walk; 0: as many as suit the method.
        label: for a run that is conditional on classes, that of all observations; -1: not known.
        condition: for a run that is conditional on something else, the file of it; "": not known.
        seed: of all draws.
        batch_size: samples that are drawn together; it does not change them.
        settings: of the method, such as `iterations` of jfps.

    Raises:
        ValueError: a measurement that does not fit the operator, or a setting out of range.
        RunError: no such run, or samples that are not finite.
    """
    loaded = run if isinstance(run, Loaded) else load(run)
    measured = measured_by(operator, tuple(loaded.run.facts.shape))
    batch = np.asarray(y, np.float32)
    if batch.shape == measured.shape:
        batch = batch[None]
    if batch.shape[1:] != measured.shape or not len(batch):
        raise ValueError(
            f"y has shape {np.shape(y)}, but this operator measures {measured.shape} of an example "
            f"of shape {measured.example}; several are stacked along a first axis"
        )
    if not np.isfinite(batch).all():
        raise ValueError("y holds numbers that are not finite; Mask leaves out what is missing")
    task = Task(
        y=batch,
        measured=measured,
        noise=noise_of(std, measured.shape),
        method=method,
        settings=settings,
        steps=steps,
        samples=samples,
        seed=seed,
        label=label,
        condition=condition,
    )
    check_task(loaded, task)
    check_model_values(batch, measured, loaded.run.facts.codec, task.noise.std)
    check_count(batch_size=batch_size)
    parts = [draw_part(loaded, task, index) for index in parts_of(task, batch_size)]
    return gathered(task, parts)


def check_task(loaded: Loaded, task: Task) -> None:
    """Raise an error if observations cannot be restored so; nothing is drawn.

    Raises:
        ValueError: a setting out of range, or a method that cannot take the operator.
        RunError: the run cannot take the condition.
    """
    check_name("method", task.method, METHODS)
    check_count(samples=task.samples)
    check_count(0, steps=task.steps)
    METHODS[task.method].check(
        _problem(loaded, task, loaded.denoiser), task.settings, task.walk_steps
    )
    _conditions(loaded, task, np.zeros(1, np.int32))


def parts_of(task: Task, batch_size: int) -> list[np.ndarray]:
    """Return the numbers of the samples in each batch; sample j of observation i has i samples + j.

    The last batch may run over the end.
    """
    return METHODS[task.method].parts(len(task.y), task.samples, batch_size)


def draw_part(
    loaded: Loaded, task: Task, index: np.ndarray, report: Callable[[int, int], None] | None = None
) -> Part:
    """Return the samples `index` (batch,) of a task.

    Raises:
        RunError: they are not finite.
    """
    place = placement(loaded.run.config, len(index), fitting=True)
    mesh = place.mesh
    rows = index // task.samples % len(task.y)
    observed = Observed(
        y=share(mesh, task.noise.white(task.y[rows])),
        cond=share(mesh, _conditions(loaded, task, rows)),
        index=share(mesh, np.asarray(index, np.int32)),
        key=jax.random.key(task.seed),
    )
    problem = _problem(loaded, task, place.put_weights(loaded.denoiser))
    method = METHODS[task.method]
    samples = method.draw(problem, task.settings, task.walk_steps, observed, report)
    x = np.asarray(samples.x)
    if not np.isfinite(x).all():
        raise RunError(
            f"{task.method} gave samples that are not finite; take more steps, or for dps a "
            "smaller step_size"
        )
    return Part(x=x, nfe=int(samples.nfe))


def gathered(task: Task, parts: list[Part]) -> Restored:
    """Return the samples of all parts, by their observations."""
    total = len(task.y) * task.samples
    x = np.concatenate([part.x for part in parts])[:total]
    x = x.reshape(len(task.y), task.samples, *x.shape[1:])
    return Restored(
        x=x,
        mean=x.mean(1, dtype=np.float64),
        std=x.std(1, dtype=np.float64),
        chi_square=chi_square(task, x),
        nfe=parts[0].nfe,
    )


def chi_square(task: Task, x: np.ndarray) -> np.ndarray:
    r"""Return the mean of :math:`(y - A x)^2 / s^2` over numbers and samples, (observations,).

    Of correlated noise it is :math:`(y - A x)^T S^{-1} (y - A x)` over the number of values.
    Given the measurement, a sample of the posterior has the law that the truth has. So its mean
    over observations is 1 if the samples are the posterior's: less says that they follow the noise,
    more that they miss the measurement.
    """
    predicted = np.asarray(jax.vmap(jax.vmap(task.measured.operator))(jnp.asarray(x)))
    residual = task.y[:, None] - predicted.astype(np.float64)
    white = task.noise.white(residual.reshape(-1, *task.measured.shape)) / task.noise.white_std
    return (white.astype(np.float64) ** 2).reshape(len(x), -1).mean(1)


def _problem(loaded: Loaded, task: Task, denoiser: Any) -> Problem:
    """Return the prior of a run with what is measured."""
    operator = task.noise.whitened(task.measured.operator)
    return Problem(
        denoise=denoiser,
        sde=loaded.sde,
        measured=task.measured._replace(operator=operator),
        std=task.noise.white_std,
        sd=float(loaded.run.config.denoiser.sigma_data),
    )


def _conditions(loaded: Loaded, task: Task, rows: np.ndarray) -> Any:
    """Return what the network is given beside the noise level, for observations `rows` (batch,).

    What is not known of them is left out, as training does by `train.label_dropout`.

    Raises:
        ValueError: the run has no such class, or was not trained without its condition.
        RunError: a file of conditions that cannot be used.
    """
    run = loaded.run
    facts = run.facts
    conditional = run.config.train.conditional
    classes = facts.num_classes if conditional else 0
    if not -1 <= task.label < classes:
        expected = f"0..{classes - 1}, or -1" if classes else "-1, as the run is not conditional"
        raise ValueError(f"the label is {task.label}, expected {expected}")
    if not conditional:
        return None
    label_missing = bool(classes) and task.label < 0
    cond_missing = facts.cond_shape is not None and not task.condition
    if (label_missing or cond_missing) and not run.config.train.label_dropout:
        setting = "label" if label_missing else "condition"
        raise ValueError(
            "the run was trained with label_dropout = 0, so that its network needs to know the "
            f"condition; give --config.sampling.{setting}=..., or {setting}=..."
        )
    label = task.label if task.label >= 0 else classes
    batch: dict[str, Any] = {"label": jnp.full(len(rows), label, jnp.int32)}
    if facts.cond_shape is not None:
        cond = np.full((1, *facts.cond_shape), np.nan, np.float32)
        if task.condition:
            cond = read_conditions(task.condition, facts)
        batch[CONDITIONS] = jnp.asarray(cond[rows % len(cond)])
    return conditions_of(run, batch)
