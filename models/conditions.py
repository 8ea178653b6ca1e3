"""The conditions of a network: a class label, a context (a vector or a set of them), an image.

A network that takes one kind of condition is called with its array:

- labels, whole numbers (batch,) in 0..num_classes, of which the last means "no label";
- contexts, floats (batch, features), or sets of such vectors (batch, members, features). A vector
  of which all numbers are NaN is absent, so that sets of several sizes fit into one array. A set
  of absent vectors means "no context";
- images, floats (batch, height, width, channels) of the height and width of the data. An image of
  which all numbers are NaN means "no image".

A network that takes several kinds is called with a dictionary of these arrays, under "label",
"context" and "image"; what it leaves out is no condition. None is no condition of any kind.

A network that is trained on augmented data can be told what was done to each example: the numbers
that describe it, floats (batch, numbers), under "augmentation" in the dictionary. Zeros, or none,
are an example as it is. This kind never comes as a bare array, so that whoever draws samples need
not know of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from .settings import check_at_least, check_classes


class Conditions(NamedTuple):
    """The conditions of a batch, each an array or None."""

    label: Array | None = None
    context: Array | None = None
    image: Array | None = None
    augmentation: Array | None = None


class ConditionSizes(NamedTuple):
    """Which conditions a network takes; 0 stands for a kind that it does not take."""

    label: int = 0  # number of classes
    context: int = 0  # features of a vector
    image: int = 0  # channels
    augmentation: int = 0  # numbers that describe one

    def check(self) -> None:
        """Raise a ValueError unless each of them can be a size."""
        check_classes(self.label)
        check_at_least(
            0, context=self.context, cond_channels=self.image, augmentation=self.augmentation
        )

    def read(self, cond: Any, x: Array) -> Conditions:
        """Return the conditions that a network is called with, after checking them.

        Args:
            cond: None, an array or a dictionary, as this module describes.
            x: the data that they belong to, (batch, ...).

        Raises:
            ValueError: a kind that the network does not take, another shape or type, or labels that
                are out of range.
        """
        given = self._by_kind(cond)
        if given.label is not None:
            check_labels(given.label, x.shape[:1], self.label)
        if given.context is not None:
            _check_context(given.context, len(x), self.context)
        if given.image is not None:
            _check_floats("an image", given.image, [(*x.shape[:-1], self.image)])
        if given.augmentation is not None:
            shape = (len(x), self.augmentation)
            _check_floats("an augmentation", given.augmentation, [shape])
        return given

    def _by_kind(self, cond: Any) -> Conditions:
        """Return conditions by their kind, unchecked."""
        if cond is None:
            return Conditions()
        named = [kind for kind, size in self._asdict().items() if size]
        if not named:
            check_labels(cond, (), 0)
        if isinstance(cond, Mapping):
            if unknown := sorted(set(cond) - set(named)):
                raise ValueError(
                    f"conditions {', '.join(unknown)} were given to a network that takes "
                    f"{' and '.join(named)}; leave them out, or build it with num_classes, "
                    "context, cond_channels or augmentation above 0"
                )
            return Conditions(**cond)
        kinds = [kind for kind in named if kind != "augmentation"]
        if not kinds:
            check_labels(cond, (), 0)
        if len(kinds) > 1:
            raise ValueError(
                f"this network takes {' and '.join(kinds)}, got one {type(cond).__name__}; pass a "
                f"dictionary of them, such as {{{kinds[0]!r}: ..., {kinds[1]!r}: ...}}"
            )
        return Conditions(**{kinds[0]: cond})


def with_image(x: Array, image: Array | None, channels: int) -> Array:
    """Append the channels of an image condition to images; "no image" is zeros.

    Args:
        x: (batch, height, width, channels of the data).
        image: (batch, height, width, channels), or None.
        channels: number of channels of the condition; 0 leaves x as it is.
    """
    if not channels:
        return x
    if image is None:
        image = jnp.zeros((*x.shape[:-1], channels), x.dtype)
    absent = jnp.isnan(image).all(axis=(1, 2, 3), keepdims=True)
    image = jnp.where(absent, 0.0, image).astype(x.dtype)
    return jnp.concatenate([x, image], axis=-1)


def with_last(x: Array, inputs: Array, last: Array | None, self_conditioning: bool) -> Array:
    """Append to the inputs of a network its last estimate of the clean data; none is zeros.

    Args:
        x: the data (batch, ..., channels) that the estimate is like.
        inputs: what the network is fed (batch, ..., any number of channels).
        last: the estimate (batch, ..., channels), or None.
        self_conditioning: whether the network takes one.

    Raises:
        ValueError: an estimate that the network does not take, or of another shape than the data.
    """
    if not self_conditioning:
        if last is not None:
            raise ValueError(
                "a last estimate was given to a network that does not take one; "
                "build it with self_conditioning=True, or leave it out"
            )
        return inputs
    if last is None:
        last = jnp.zeros_like(x)
    _check_floats("a last estimate", last, [x.shape])
    return jnp.concatenate([inputs, last.astype(inputs.dtype)], axis=-1)


def check_labels(cond: Any, shape: tuple[int, ...], num_classes: int) -> None:
    """Raise a ValueError unless labels have this shape and are whole numbers in 0..num_classes."""
    if not num_classes:
        raise ValueError(
            "labels were given to a network without classes; "
            "build it with num_classes > 0, or pass cond=None"
        )
    dtype = jnp.result_type(cond)
    if jnp.shape(cond) != shape or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"cond is {dtype}{jnp.shape(cond)}, expected integer labels of shape {shape}"
        )
    if isinstance(cond, Tracer):
        return
    labels = np.asarray(cond)
    if not ((0 <= labels) & (labels <= num_classes)).all():
        raise ValueError(
            f"labels range over {labels.min()}..{labels.max()}, expected 0..{num_classes} "
            f"({num_classes} = no label)"
        )


def _check_context(context: Any, batch: int, features: int) -> None:
    """Raise a ValueError unless contexts are (batch, features) or (batch, members, features)."""
    members = jnp.shape(context)[1:-1]
    shapes: list[tuple[int, ...]] = [(batch, features)]
    if len(members) == 1 and members[0] > 0:
        shapes.append((batch, *members, features))
    _check_floats("a context", context, shapes)


def _check_floats(name: str, values: Any, shapes: list[tuple[int, ...]]) -> None:
    """Raise a ValueError unless `values` are floats of one of some shapes."""
    dtype = jnp.result_type(values)
    if jnp.shape(values) not in shapes or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} is {dtype}{jnp.shape(values)}, expected floats of shape {shapes[-1]}"
        )
