"""Training states of score_sde, in PyTorch and in JAX.

Of them the weights, their moving average and the step are read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.serialization import msgpack_restore

from ..errors import RunError
from .reading import Budget, checked_step, checked_weights, reading, shown
from .torch_file import check_archive, read_torch

UNTRAINED = "all_modules.0.W"  # the random frequencies of a Fourier embedding: never trained


class State(NamedTuple):
    """What is read of a training state."""

    model: dict[str, np.ndarray]
    ema: dict[str, np.ndarray]
    step: int


def pytorch_state(path: Path) -> State:
    """Read a checkpoint of score_sde_pytorch or of NCSNv2.

    Raises:
        RunError: the file is of another kind or damaged.
    """
    with reading(path, "training state of score_sde_pytorch"):
        state = read_torch(path)
        return _of_list(state) if isinstance(state, list) else _of_names(state)


def state_dict(path: Path) -> State:
    """Read an `.npz` that holds a state dict, each array under "param/" and its name.

    Raises:
        RunError: the file is of another kind or damaged.
    """
    with reading(path, ".npz file of a state dict"):
        with open(path, "rb") as opened, np.load(opened) as file:
            check_archive(file.zip, Budget(path.stat().st_size))
            names = [name for name in file.files if name.startswith("param/")]
            weights = {name.removeprefix("param/"): file[name] for name in names}
        if not weights:
            raise RunError("it holds no array whose name begins with param/")
        weights = checked_weights(weights, "the state dict")
    return State(model=weights, ema=weights, step=0)


def jax_state(path: Path) -> State:
    """Read a checkpoint of the JAX original: what flax's msgpack wrote of its training state.

    Raises:
        RunError: the file is of another kind or damaged.
    """
    data = path.read_bytes()
    with reading(path, "training state of score_sde"):
        state = _part(msgpack_restore(data), "the state")
        optimizer = _part(_item(state, "optimizer"), "optimizer")
        return State(
            model=_joined(_item(optimizer, "target"), "optimizer.target"),
            ema=_joined(_item(state, "params_ema"), "params_ema"),
            step=checked_step(_item(state, "step")),
        )


def _of_names(state: Any) -> State:
    """Read the state of score_sde_pytorch.

    The average is a list without names, in the order of the state dict, of what is trained: neither
    buffers nor Fourier frequencies.
    """
    state = _part(state, "the state")
    model = _unwrapped(_item(state, "model"), "model")
    step = checked_step(_item(state, "step"))
    shadow = _item(_part(_item(state, "ema"), "ema"), "shadow_params")
    if not isinstance(shadow, list | tuple):
        raise RunError(f"ema.shadow_params is {shown(shadow)}, expected a list of arrays")
    averages = checked_weights(dict(zip(map(str, range(len(shadow))), shadow)), "ema")  # noqa: B905
    trained = [
        name
        for name, array in model.items()
        if name != "sigmas" and not (name == UNTRAINED and np.ndim(array) == 1)
    ]
    if [model[name].shape for name in trained] != [a.shape for a in averages.values()]:
        raise RunError(
            f"the moving average has {len(shadow)} arrays, the network {len(trained)} that are "
            "trained; they do not match"
        )
    ema = model | dict(zip(trained, averages.values(), strict=True))
    return State(model=model, ema=ema, step=step)


def _of_list(state: list) -> State:
    """Read the state of NCSNv2: model, optimizer, epoch, step and perhaps the average, by name."""
    if len(state) < 4:
        raise RunError(f"the state is {shown(state)}, expected a list of four or five parts")
    model = _unwrapped(state[0], "model")
    ema = _unwrapped(state[4], "ema") if len(state) > 4 else {}
    return State(model=model, ema=model | ema, step=checked_step(state[3]))


def _part(value: Any, name: str) -> Mapping:
    """Return a part of a state that has parts itself; raise a RunError if it has none."""
    if not isinstance(value, Mapping):
        raise RunError(f"{name} is {shown(value)}, expected its parts by name")
    return value


def _item(state: Mapping, name: str) -> Any:
    """Return what a part of a state has by a name; raise a RunError if it lacks it."""
    if name not in state:
        raise RunError(f"this is no training state: it lacks {name!r}")
    return state[name]


def _unwrapped(weights: Any, name: str) -> dict[str, np.ndarray]:
    """Return weights by their own names, without the prefix of DataParallel."""
    weights = checked_weights(weights, name)
    return {key.removeprefix("module."): value for key, value in weights.items()}


def _joined(tree: Any, name: str) -> dict[str, np.ndarray]:
    """Return nested dicts as one, names joined by dots."""
    joined: dict[str, Any] = {}

    def collect(tree: Mapping, prefix: str) -> None:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{key}.")
            else:
                joined[f"{prefix}{key}"] = value

    collect(_part(tree, name), "")
    return checked_weights(joined, name)
