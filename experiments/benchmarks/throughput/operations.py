"""Floating-point operations of a function, counted by hand: those of its convolutions and products.

A multiplication with addition counts as two, and where a kernel reaches beyond the border of an
image, or meets the zeros between the pixels of a dilated one, nothing is multiplied. XLA's own count
adds everything elementwise.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np


class Operations(NamedTuple):
    """Floating-point operations, by what they are part of."""

    convolutions: float = 0.0
    products: float = 0.0  # of matrices

    @property
    def total(self) -> float:
        """All of them."""
        return self.convolutions + self.products


def operations(function: Callable, *arguments: Any) -> Operations:
    """Count the operations of a function of arrays, or of shapes in their place; nothing runs."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> Operations:
    """Count the operations of a jaxpr and of those inside it."""
    convolutions = products = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "conv_general_dilated":
            convolutions += _convolution(equation)
        elif name == "dot_general":
            products += _product(equation)
        else:
            inner = _inside(equation)
            convolutions += inner.convolutions
            products += inner.products
    return Operations(convolutions=convolutions, products=products)


def _inside(equation: Any) -> Operations:
    """Count the operations of the jaxprs that an equation calls.

    Of the branches of a condition the dearest counts. A `while` counts once.
    """
    counts = [_count(inner) for inner in _jaxprs(equation.params)]
    if not counts:
        return Operations()
    if equation.primitive.name == "cond":
        return max(counts, key=lambda count: count.total)
    times = equation.params["length"] if equation.primitive.name == "scan" else 1
    return Operations(
        convolutions=times * sum(count.convolutions for count in counts),
        products=times * sum(count.products for count in counts),
    )


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs among the parameters of an equation."""
    for value in parameters.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(entry, "jaxpr", entry)
            if hasattr(inner, "eqns"):
                yield inner


def _product(equation: Any) -> float:
    """Count the operations of a product of matrices."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> float:
    """Count the operations of a convolution."""
    settings = equation.params
    image, kernel = (variable.aval.shape for variable in equation.invars)
    result = equation.outvars[0].aval.shape
    numbers = settings["dimension_numbers"]
    batch, features, *spatial = numbers.out_spec
    taps = 1
    for axis, place in enumerate(spatial):
        taps *= _taps(
            size=image[numbers.lhs_spec[2 + axis]],
            kernel=kernel[numbers.rhs_spec[2 + axis]],
            result=result[place],
            stride=settings["window_strides"][axis],
            before=settings["padding"][axis][0],
            between=settings["lhs_dilation"][axis],
            apart=settings["rhs_dilation"][axis],
        )
    channels_in = kernel[numbers.rhs_spec[1]]
    return 2.0 * taps * result[batch] * result[features] * channels_in


def _taps(
    *, size: int, kernel: int, result: int, stride: int, before: int, between: int, apart: int
) -> int:
    """Return how many pairs of a result's pixel and a kernel's entry meet a pixel, along one axis.

    `before`: padding at the start; `between`: dilation of the image; `apart`: of the kernel.
    """
    place = np.arange(result)[:, None] * stride + np.arange(kernel) * apart - before
    inside = (place >= 0) & (place <= (size - 1) * between) & (place % between == 0)
    return int(inside.sum())
