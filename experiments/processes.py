"""Several processes that train one run together, on one machine or on many.

Every process runs the same program on its own devices and reads its own part of each batch; JAX's
collectives join them. The first process alone writes and speaks. A process that is alone finds
everything here at no cost.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from .errors import RunError


class Group(NamedTuple):
    """How a process finds the others, as the command line says it."""

    coordinator: str | None = None  # HOST:PORT of the first process
    processes: str | None = None  # how many there are, or "cluster"
    process: str | None = None  # the number of this one


def join(group: Group) -> None:
    """Join the other processes; do nothing where none are named.

    Call it before anything runs in JAX. "cluster" takes everything from the environment of Slurm,
    Open MPI, Kubernetes or a TPU pod, as `jax.distributed.initialize` does.

    Raises:
        RunError: a part of it is missing or wrong, or the others cannot be reached.
    """
    if group == Group():
        return
    settings = {} if group.processes == "cluster" else _settings(group)
    try:
        jax.distributed.initialize(**settings)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"cannot join the other processes ({' '.join(str(error).split())[:300]}); start each "
            "with the same --coordinator=HOST:PORT and --processes=N, and --process=0 to N-1, or with "
            "--processes=cluster where Slurm, Open MPI or Kubernetes started it"
        ) from error


def _settings(group: Group) -> dict[str, Any]:
    """Return what `jax.distributed.initialize` is told; raise a RunError if it is not complete."""
    if missing := [f"--{name}" for name, value in group._asdict().items() if value is None]:
        raise RunError(
            f"{' and '.join(missing)} is missing; several processes are started with "
            "--coordinator=HOST:PORT --processes=N --process=I, or with --processes=cluster"
        )
    numbers = [group.processes or "", group.process or ""]
    if not all(number.isdecimal() for number in numbers) or int(numbers[1]) >= int(numbers[0]):
        raise RunError(
            f"--processes={group.processes} --process={group.process} are not the number of "
            "processes and the number of this one, from 0 on"
        )
    return {
        "coordinator_address": group.coordinator,
        "num_processes": int(numbers[0]),
        "process_id": int(numbers[1]),
    }


def are_several() -> bool:
    """Tell whether this process is one of several."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Wait until every process has come here."""
    if are_several():
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def first_goes_ahead(name: str) -> Iterator[None]:
    """Let the first process through, and the others only when it is done."""
    if not is_first():
        meet(name)
    yield
    if is_first():
        meet(name)


@contextlib.contextmanager
def one_speaks() -> Iterator[None]:
    """Print what the first process says, and of the others nothing but errors that end them."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def any_says(flag: bool) -> bool:
    """Tell whether any process says so. All have to ask, at the same step."""
    if not are_several():
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def fetched(array: jax.Array) -> np.ndarray:
    """Return an array of which this process may hold a part only. All have to ask."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
