"""The training step as a compiled program, which says what it needs of a device's memory.

The step is compiled before its first call, for the state and the batch of that call, once.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ..errors import RunError
from .messages import say

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA's message begins, on every backend


class Memory(NamedTuple):
    """Bytes that a compiled program needs on each device, by XLA's account of it."""

    arguments: int  # of a training step: state and batch
    temporaries: int  # with the results that do not take the place of a donated argument

    @property
    def total(self) -> int:
        """What the program needs together."""
        return self.arguments + self.temporaries


def memory_of(program: Any) -> Memory | None:
    """Return the memory of a compiled program; None where a backend keeps no account."""
    account = program.memory_analysis()
    if account is None:
        return None
    results = account.output_size_in_bytes - account.alias_size_in_bytes
    return Memory(
        arguments=account.argument_size_in_bytes,
        temporaries=account.temp_size_in_bytes + results,
    )


def device_memory() -> int | None:
    """Return the bytes that JAX may use of a device; None where it does not tell, as CPUs do."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")


def size(count: float) -> str:
    """Return a number of bytes as a reader says it: 12 MiB, 3.4 GiB."""
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:.3g} {name}"


def needs(memory: Memory, limit: int | None) -> str:
    """Say what a step needs. `limit`: bytes of a device, None where that is not known."""
    text = (
        f"the step needs {size(memory.total)} of memory on each device: "
        f"{size(memory.arguments)} for state and batch, {size(memory.temporaries)} while it computes"
    )
    return f"{text}; {memory.total / limit:.0%} of the {size(limit)} there are" if limit else text


class StepProgram:
    """A training step (state, batch) -> (state, metrics) that is compiled when it is first called.

    Args:
        step: the jitted step, such as that of `state.make_train_step`.
        config: the configuration, whose settings are named where memory does not suffice.
        begun: whether the run goes on from a checkpoint, which fixes most of its settings.
    """

    def __init__(self, step: Callable, config: ConfigDict, *, begun: bool):
        self._step = step
        self._remedies = remedies(config, begun=begun)
        self._program: Any = None
        self._memory: Memory | None = None

    def __call__(self, state: Any, batch: Any) -> Any:
        """Make a step. The state is donated."""
        if self._program is None:
            self._program = self._step.lower(state, batch).compile()
            self._memory = memory_of(self._program)
            if self._memory:
                say(needs(self._memory, device_memory()))
        return self._program(state, batch)

    @contextlib.contextmanager
    def explaining_memory(self) -> Iterator[None]:
        """Raise a RunError with the remedies where a device has too little memory for a step."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            needed = f" ({needs(self._memory, device_memory())})" if self._memory else ""
            raise RunError(
                f"the memory of a device does not suffice for the training step{needed}; "
                f"{self._remedies}"
            ) from error


def remedies(config: ConfigDict, *, begun: bool) -> str:
    """Say what makes a training step need less memory."""
    if begun:
        return (
            "a run keeps its batch size and its network: go on with it on more devices "
            "(--config.devices), let them share the weights (--config.placement.fsdp), or take "
            "devices with more memory"
        )
    half = config.train.batch_size // 2
    twice = 2 * config.train.accumulate
    text = (
        f"lower --config.train.batch_size (with {half} and --config.train.accumulate={twice} an "
        "update sees as many examples as now)"
    )
    if config.net.get("remat") is True or len(config.facts.shape) != 3:
        return text
    return f"{text}, or set --config.net.remat=True, which keeps less for the gradient"
