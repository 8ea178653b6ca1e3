r"""MMPS, moment matching posterior sampling (Rozet et al. 2024, arXiv:2405.13712).

It takes Tweedie's covariance whole, :math:`C = (\sigma^2 / \alpha) J`, and solves

.. math:: (S + A C A^T) v = y - A D, \qquad D_y = D + C A^T v,

by conjugate gradients, each of which costs a product with the network's Jacobian. It is exact for
Gaussian data when enough iterations are made.
"""

import equinox as eqx
from jax import Array

from ..evaluations import count_evaluations, record_evaluations
from .base import PosteriorDenoiser, Problem


class MMPS(PosteriorDenoiser):
    """Moment matching; `iterations` + 3 evaluations a call, all but one of them products.

    Attributes:
        iterations: of the conjugate gradients, at most; one, as some use, solves nothing but
            problems whose :math:`A C A^T` is a multiple of the identity.
        tolerance: of the conjugate gradients, relative to the residual. A sample that is done does
            not stop those beside it, so that all count as made.
    """

    iterations: int = eqx.field(default=8, static=True)
    tolerance: float = 1e-4

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`."""
        with count_evaluations():  # a loop, which is traced once
            weights = problem.solve(problem.tweedie, self.iterations, self.tolerance)
        record_evaluations(self.iterations + 1)  # one more for the residual that it starts from
        return problem.tweedie(problem.adjoint(weights))
