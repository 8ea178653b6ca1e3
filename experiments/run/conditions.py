"""What a conditional run gives its network beside the noise level.

The data decide it: the class of an example where they have classes, its condition where they have
conditions (`data.DataSet`), and a dictionary of both where they have both.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

import sde_lib

from ..errors import RunError
from .array_setting import read_array
from .augmentation import AUGMENTATION, NUMBERS

if TYPE_CHECKING:
    from .build import DataFacts, Run

CONDITIONS = "cond"  # the name of the array in an .npz file


def condition_kind(cond_shape: tuple[int, ...]) -> str:
    """Return what a network calls a condition of this shape: "context" or "image"."""
    return "image" if len(cond_shape) == 3 else "context"


def network_settings(facts: "DataFacts", train: ConfigDict) -> dict[str, int]:
    """Return the settings that make a network take what it is trained with; 0 where there is none.

    Args:
        facts: of the data.
        train: the section `config.train`.
    """
    settings = {"num_classes": 0, "context": 0, "cond_channels": 0}
    settings["augmentation"] = NUMBERS if train.augment else 0
    if not train.conditional:
        return settings
    settings["num_classes"] = facts.num_classes
    if facts.cond_shape is not None:
        name = {"context": "context", "image": "cond_channels"}[condition_kind(facts.cond_shape)]
        settings[name] = facts.cond_shape[-1]
    return settings


def conditions_of(run: "Run", batch: dict, dropped: Array | None = None) -> Any:
    """Return the conditions of a batch of data, as a network takes them.

    Args:
        run: the run.
        batch: with "label" (batch,), "cond" (batch, ...) where the data have conditions, and
            "augmentation" (batch, numbers) where examples are augmented.
        dropped: truth values (batch,): those examples are given no condition. None: no example.

    Returns:
        None if the run is not conditional and nothing is augmented.
    """
    given = _conditions_of_data(run, batch, dropped)
    if AUGMENTATION in batch:  # a network is told of it by name only, and it is never dropped
        return given | {AUGMENTATION: batch[AUGMENTATION]}
    return given if len(given) > 1 else next(iter(given.values()), None)


def _conditions_of_data(run: "Run", batch: dict, dropped: Array | None) -> dict[str, Any]:
    """Return the conditions of a batch of data, by kind; none if the run is not conditional."""
    given = {}
    if not run.config.train.conditional:
        return given
    if run.facts.num_classes:
        given["label"] = batch["label"]
        if dropped is not None:
            given["label"] = jnp.where(dropped, run.facts.num_classes, batch["label"])
    if run.facts.cond_shape is not None:
        kind = condition_kind(run.facts.cond_shape)
        given[kind] = batch[CONDITIONS]
        if dropped is not None:
            where = dropped.reshape(-1, *[1] * (batch[CONDITIONS].ndim - 1))
            given[kind] = jnp.where(where, jnp.nan, batch[CONDITIONS])
    return given


def sampled_conditions(run: "Run", index: Any) -> Any:
    """Return the conditions under which the samples `index` (batch,) are drawn.

    A network that is not conditional is guided to a class by a classifier.

    Returns:
        None if there are no conditions.

    Raises:
        RunError: the run needs a file of conditions, or cannot use it.
    """
    named = {name: jnp.asarray(values) for name, values in named_conditions(run, index).items()}
    if not run.config.train.conditional:
        return named.get("label")
    return conditions_of(run, named)


def named_conditions(run: "Run", index: Any) -> dict[str, Any]:
    """Return the "label" and the "cond" under which the samples `index` (batch,) are drawn.

    The class is `config.sampling.label`, or every class in turn; the condition is that of the file
    `config.sampling.condition`, or each of them in turn.

    Raises:
        RunError: the run needs a file of conditions, or cannot use it.
    """
    named = {}
    conditional = run.config.train.conditional
    if run.facts.num_classes and (conditional or guides_by_class(run.config)):
        label = run.config.sampling.label
        named["label"] = index * 0 + label if label >= 0 else index % run.facts.num_classes
    if run.facts.cond_shape is not None and conditional:
        conditions = read_conditions(run.config.sampling.condition, run.facts)
        named[CONDITIONS] = conditions[np.asarray(index) % len(conditions)]
    return named


def guides_by_class(config: ConfigDict) -> bool:
    """Tell whether a classifier guides samples, so that they have a class."""
    return config.guidance.get("name") == sde_lib.ClassifierGuidance.__name__


def conditions_digest(run: "Run") -> str:
    """Return the hash of the conditions that samples are drawn under; "" without any."""
    if not run.config.train.conditional or run.facts.cond_shape is None:
        return ""
    cond = read_conditions(run.config.sampling.condition, run.facts)
    return hashlib.sha256(f"{cond.shape}".encode() + cond.tobytes()).hexdigest()


def read_conditions(path: str, facts: "DataFacts") -> np.ndarray:
    """Return the conditions of a file, (number, *shape), float32.

    A set may have another number of members than those that the network was trained on.

    Args:
        path: an .npy file, or an .npz file with an array "cond" or with one array; it holds one
            condition or a list of them.
        facts: of the data of the run.

    Raises:
        RunError: no file, or one that holds something else.
    """
    from ..data.base import condition_problem

    setting = f"config.sampling.condition={path}"
    shape = facts.cond_shape
    if shape is None:
        raise RunError(f"{setting}: the data of this run have no conditions; leave it out")
    if not path:
        raise RunError(
            f"this run draws samples under conditions of shape {shape}; name a file of them with "
            "--config.sampling.condition=conditions.npy"
        )
    cond = read_array(setting, Path(path).expanduser(), (CONDITIONS,))
    if cond.ndim == len(shape):
        cond = cond[None]
    expected = (*cond.shape[1:2], shape[1]) if len(shape) == 2 else shape
    if cond.dtype.kind not in "fiu" or cond.shape[1:] != expected or not cond.size:
        raise RunError(
            f"{setting} holds {cond.dtype} of shape {cond.shape}, expected numbers of shape "
            f"{shape} for one condition, or (number, {', '.join(map(str, shape))}) for several"
        )
    cond = np.asarray(cond, np.float32)
    for number, one in enumerate(cond):
        if problem := condition_problem(one, one.shape):
            raise RunError(f"{setting}: condition {number} {problem}")
    return cond
