"""The memory of a training step by hand, before any compiler has seen it.

Parameters, gradient, moments of the optimiser, average of the parameters and the batch are what they
are. What the gradient keeps of the forward pass is counted in two ways: every array that JAX's
differentiation asks for, and the results of convolutions and products alone, from which all the rest
could be computed again without another convolution or product.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...run.build import Run
from ...run.losses import make_loss
from ...state import TrainState


class Account(NamedTuple):
    """Bytes of a training step on one device."""

    state: int  # parameters, moments, average
    gradient: int
    batch: int
    activations: int  # every array that differentiation keeps
    results: int  # of convolutions and products, where only those are kept

    @property
    def total(self) -> int:
        """The step as JAX differentiates it."""
        return self.state + self.gradient + self.batch + self.activations

    @property
    def least(self) -> int:
        """The step that computes everything elementwise again."""
        return self.state + self.gradient + self.batch + self.results

    def of_one(self, devices: int) -> "Account":
        """Return the bytes of one of several devices that share the batch."""
        return self._replace(
            batch=self.batch // devices,
            activations=self.activations // devices,
            results=self.results // devices,
        )


def account(run: Run, state: TrainState, batch: Any) -> Account:
    """Count the bytes of a step of a run; arrays may be shapes. Nothing runs."""
    loss = make_loss(run)

    def of_params(params, key, batch):
        return loss(params, key, batch)

    products = jax.checkpoint(of_params, policy=_is_product)  # pyright: ignore[reportArgumentType]
    arguments = (state.params, state.key, batch)
    return Account(
        state=nbytes((state.params, state.ema, state.opt)),
        gradient=nbytes(state.params),
        batch=nbytes(batch),
        activations=kept_bytes(of_params, *arguments),
        results=kept_bytes(products, *arguments),
    )


def nbytes(tree: Any) -> int:
    """Return the bytes of all arrays of a tree."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def kept_bytes(loss: Any, params: Any, *arguments: Any) -> int:
    """Return the bytes that the gradient of loss(params, ...) keeps, its arguments left out."""

    def kept(params, *arguments):
        _, gradient = jax.vjp(lambda params: loss(params, *arguments), params)
        return jax.tree.leaves(gradient)

    jaxpr = jax.make_jaxpr(kept)(params, *arguments).jaxpr
    given = {id(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    arrays = {id(v): v.aval for v in jaxpr.outvars if not hasattr(v, "val")}
    return sum(_size(array) for place, array in arrays.items() if place not in given)


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    """Tell whether the result of a primitive is kept."""
    return primitive.name in ("conv_general_dilated", "dot_general")


def _size(array: Any) -> int:
    """Return the bytes of an array, or of a shape in its place; a random key is left out."""
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return 0
    return int(np.prod(array.shape)) * array.dtype.itemsize
