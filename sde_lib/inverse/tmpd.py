r"""TMPD, Tweedie moment projected diffusions (Boys et al. 2023, arXiv:2310.06721).

The covariance of a measurement given the state, :math:`A C A^T` with Tweedie's
:math:`C = (\sigma^2 / \alpha) J`, is replaced by a diagonal matrix with the same sums of its rows,
which one product with the Jacobian gives. It is exact where :math:`A C A^T` is diagonal, and biased
elsewhere.
"""

import jax.numpy as jnp
from jax import Array

from .base import PosteriorDenoiser, Problem


class TMPD(PosteriorDenoiser):
    """Tweedie moment projection; three evaluations a call, two of them products."""

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`."""
        ones = jnp.ones_like(problem.tangent.residual)
        row_sums = problem.tangent.forward(problem.tweedie(problem.tangent.adjoint(ones)))
        variance = problem.variance + jnp.maximum(row_sums, 0.0)
        return problem.tweedie(problem.tangent.adjoint(problem.tangent.residual / variance))
