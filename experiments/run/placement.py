"""Where the arrays of a run live: which are split over the devices of its mesh, and how.

A batch is split over all devices. Weights, the moments of the optimiser and the averages are whole
on every device, unless `config.placement` splits them. One rule places an array wherever it is
met, at its birth, in the training step, in a checkpoint that is read, and in sampling:

- `fsdp` devices form a group, and each of its devices keeps its part of every large array. A
  training step gathers the weights for its forward pass, and again for its backward pass
  (arXiv:1910.02054, stage 3).
- `split_update` splits the moments and the averages over all devices, and leaves the weights
  whole: each device updates its part, and the new weights are gathered (arXiv:2004.13336).

No code inside a compiled function knows any of it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from .devices import DATA, FSDP, fitting_mesh, group_mesh, make_mesh

SMALLEST = 1024  # numbers; an array of fewer is whole on every device
WHOLE, LARGEST = "whole", "largest"  # what a rule may say beside the number of an axis


class Rule(NamedTuple):
    """Along which axis the arrays are split whose path a pattern is found in."""

    pattern: re.Pattern
    axis: int | str  # its number, WHOLE or LARGEST


class Placement(NamedTuple):
    """Where the arrays of a run live."""

    mesh: Mesh
    split_update: bool = False
    rules: tuple[Rule, ...] = ()  # the first that is found decides; without any, LARGEST

    def weights(self, tree: Any) -> Any:
        """Return the shardings of weights, as a tree like `tree`."""
        return self._shardings(tree, (FSDP,))

    def state(self, state: Any) -> Any:
        """Return the shardings of a training state, as a tuple like `state`, of `TrainState`."""
        axes = (DATA, FSDP) if self.split_update else (FSDP,)
        shardings = self._shardings(state, axes)
        return shardings._replace(params=self.weights(state.params))

    def put_weights(self, tree: Any) -> Any:
        """Return `tree` with its arrays where weights live; what is no array stays as it is."""
        arrays, rest = eqx.partition(tree, eqx.is_array)
        return eqx.combine(jax.device_put(arrays, self.weights(arrays)), rest)

    def gathers(self, loss: Callable) -> Callable:
        """Return a loss (params, key, batch) whose weights are whole only while it is computed.

        Its gradient is split like the weights.
        """
        if self.mesh.shape[FSDP] == 1:
            return loss

        def gathered(params: Any, key: Any, batch: Any) -> Any:
            shardings = self.weights(params)
            return loss(jax.tree.map(self._gather, params, shardings), key, batch)

        return jax.checkpoint(gathered, policy=_is_kept)

    def _gather(self, weight: Any, split: NamedSharding) -> Any:
        """Return a weight whole on every device; its gradient is split like it."""
        whole = replicated(self.mesh)

        @jax.custom_vjp
        def gather(weight):
            return jax.lax.with_sharding_constraint(weight, whole)

        def forward(weight):
            return jax.lax.with_sharding_constraint(weight, whole), None

        def backward(_, gradient):
            return (jax.lax.with_sharding_constraint(gradient, split),)

        gather.defvjp(forward, backward)
        return gather(weight)

    def _shardings(self, tree: Any, axes: tuple[str, ...]) -> Any:
        """Return the sharding over the `axes` of the mesh of each array of a tree."""
        parts = int(np.prod([self.mesh.shape[axis] for axis in axes]))

        def sharding(path: Any, array: Any) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            axis = self._axis(name, array, parts)
            before = () if axis is None else (None,) * axis
            spec = PartitionSpec() if axis is None else PartitionSpec(*before, axes)
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def _axis(self, name: str, array: Any, parts: int) -> int | None:
        """Return the axis along which an array is split into `parts`, or None if it is not."""
        shape = np.shape(array)
        if parts == 1 or np.prod(shape) < SMALLEST:
            return None
        axis = next((rule.axis for rule in self.rules if rule.pattern.search(name)), LARGEST)
        if axis == WHOLE:
            return None
        if axis == LARGEST:
            fitting = [number for number, size in enumerate(shape) if size % parts == 0]
            return max(fitting, key=lambda number: (shape[number], number), default=None)
        return _checked_axis(int(axis), name, shape, parts)


def _is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """Tell whether a result is kept for the backward pass: all but gathered weights."""
    return primitive.name != "sharding_constraint"


def _checked_axis(axis: int, name: str, shape: Sequence[int], parts: int) -> int:
    """Return the axis that a rule gives; raise a ValueError if it cannot be split."""
    if axis >= len(shape) or shape[axis] % parts:
        raise ValueError(
            f"config.placement.rules splits {name} of shape {tuple(shape)} along axis {axis} into "
            f"{parts} parts, which is not possible; name another axis, or {WHOLE!r}"
        )
    return axis


def placement(config: ConfigDict, batch_size: int, *, fitting: bool = False) -> Placement:
    """Return where the arrays of a run live.

    Args:
        config: the run's configuration.
        batch_size: of the batches that its devices share.
        fitting: use as many devices as divide the batch, for batches whose size no setting decides.

    Raises:
        ValueError: a setting of `config.placement` or `config.devices` cannot be used.
    """
    make = fitting_mesh if fitting else make_mesh
    return _on(make(batch_size, config.devices, config.placement.fsdp), config)


def groups(config: ConfigDict, count: int) -> list[Placement]:
    """Return the placements on `count` groups of `config.placement.fsdp` devices, each alone."""
    size = config.placement.fsdp
    return [_on(group_mesh(number, size), config) for number in range(count)]


def _on(mesh: Mesh, config: ConfigDict) -> Placement:
    """Return the placement on a mesh that a configuration asks for."""
    settings = config.placement
    return Placement(mesh, settings.split_update, tuple(map(_rule, settings.rules)))


def _rule(text: str) -> Rule:
    """Return a rule as a configuration says it: "kernel=largest", "norm=whole", "embedding=0"."""
    pattern, _, axis = text.rpartition("=")
    if axis not in (WHOLE, LARGEST) and not axis.isdecimal():
        raise ValueError(
            f"config.placement.rules holds {text!r}; a rule is PATTERN=AXIS, where AXIS is the "
            f"number of an axis, {LARGEST!r} or {WHOLE!r}"
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"config.placement.rules holds {text!r}, whose pattern cannot be read: {error}"
        ) from error
    return Rule(compiled, int(axis) if axis.isdecimal() else axis)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Return `tree` with a copy of every array on every device of the mesh.

    What is no array stays as it is.
    """
    whole = replicated(mesh)
    return jax.tree.map(lambda a: jax.device_put(a, whole) if isinstance(a, jax.Array) else a, tree)


def share(mesh: Mesh, batch: Any) -> Any:
    """Return `batch` with the leading axis of every array split over the devices of the mesh.

    An array whose length they do not divide is replicated. Of several processes each has the whole
    batch.
    """
    split = _split(mesh)
    whole = replicated(mesh)
    return jax.tree.map(lambda a: jax.device_put(a, whole if len(a) % mesh.size else split), batch)


def join_parts(mesh: Mesh, part: Any) -> Any:
    """Return the batch, split as by `share`, of which each process has its own devices' rows."""
    if jax.process_count() == 1:
        return share(mesh, part)
    split = _split(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(split, a), part)


def _split(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array whose leading axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))
