r"""DDNM, the null-space model (Wang et al. 2022, arXiv:2212.00490, eq. 13): the measured part of the
expected clean data is replaced,

.. math:: D_y = D + A^+ (y - A D),

as if the measurement had no noise. It calls no Jacobian.
"""

import equinox as eqx
from jax import Array

from .base import PosteriorDenoiser, Problem


class DDNM(PosteriorDenoiser):
    """Range-null decomposition for measurements without noise; one evaluation a call.

    `std` is not used. Noise of the measurement is reproduced, and amplified where the operator
    nearly loses something, such as the fine detail that a blur removes.

    Attributes:
        iterations: of the conjugate gradients, at most; they call no network.
        tolerance: of the conjugate gradients, relative to the residual.
    """

    iterations: int = eqx.field(default=50, static=True)
    tolerance: float = 1e-4

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`."""
        exact = problem._replace(variance=0.0)
        weights = exact.solve(lambda v: v, self.iterations, self.tolerance)
        return problem.tangent.adjoint(weights)
