r"""PiGDM, pseudo-inverse guidance (Song et al., ICLR 2023), with measurement noise.

Clean data given the state are taken to have the variance of Gaussian data of standard deviation d,

.. math:: C = r^2 I, \qquad r^2 = \frac{\sigma^2 d^2}{\sigma^2 + \alpha^2 d^2},

and the score of :math:`y \mid x_t` passes through the network's Jacobian J,

.. math:: D_y = D + \frac{\sigma^2}{\alpha} J^T A^T (S + r^2 A A^T)^{-1} (y - A D).
"""

import equinox as eqx
from jax import Array

from .base import PosteriorDenoiser, Problem


class PiGDM(PosteriorDenoiser):
    """Pseudo-inverse guidance; two evaluations a call, one of them a product with the Jacobian.

    Attributes:
        iterations: of the conjugate gradients, at most; they call no network. For a mask, an
            average over disjoint pixels and unitary transforms one suffices.
        tolerance: of the conjugate gradients, relative to the residual.
    """

    iterations: int = eqx.field(default=30, static=True)
    tolerance: float = 1e-5

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`."""
        noise = problem.level**2
        variance = noise * self.sigma_data**2 / (noise + self.sigma_data**2)
        weights = problem.solve(lambda v: variance * v, self.iterations, self.tolerance)
        return problem.tweedie(problem.tangent.adjoint(weights))
