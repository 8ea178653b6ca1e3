"""An operator made linear at one sample, and the equation that least-squares moves solve."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.sparse.linalg import cg

from .measurement import check_fits


class Tangent(NamedTuple):
    """The tangent A of an operator at one sample x."""

    residual: Array  # y - operator(x), of the shape of a measurement
    forward: Callable[[Array], Array]  # v -> A v, from samples to measurements
    adjoint: Callable[[Array], Array]  # v -> A^T v, from measurements to samples

    @classmethod
    def at(cls, operator: Callable[[Array], Array], x: Array, y: Array) -> "Tangent":
        """Return the tangent at `x`.

        Raises:
            ValueError: the operator does not give measurements of the shape of `y`.
        """
        predicted, forward = jax.linearize(operator, x)
        check_fits(y, predicted)
        transpose = jax.linear_transpose(forward, x)
        return cls(residual=y - predicted, forward=forward, adjoint=lambda v: transpose(v)[0])

    def solve(
        self,
        variance: Any,
        covariance: Callable[[Array], Array],
        iterations: int,
        tolerance: float | Array,
    ) -> Array:
        """Return (S + A C A^T)^-1 residual by conjugate gradients.

        Args:
            variance: of the measurement noise S, () or of the shape of a measurement.
            covariance: v -> C v, from samples to samples.
            iterations: at most.
            tolerance: of the remaining residual, relative to the residual; less than rounding
                cannot be reached, and going on would divide 0 by 0.
        """
        least = 10 * jnp.finfo(self.residual.dtype).eps
        relative: Any = jnp.maximum(tolerance, least)  # an array, which `cg` does not say it takes

        def product(v: Array) -> Array:
            return variance * v + self.forward(covariance(self.adjoint(v)))

        return cg(product, self.residual, tol=relative, maxiter=iterations)[0]
