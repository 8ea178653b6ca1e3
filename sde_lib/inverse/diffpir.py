r"""DiffPIR (Zhu et al. 2023, arXiv:2305.08995): a proximal step from the expected clean data,

.. math:: D_y = \operatorname{argmin}_x \frac{|y - A x|^2}{s^2}
    + \lambda \frac{\alpha^2}{\sigma^2} |x - D|^2,

which is the Gaussian formula with :math:`C = \sigma^2 / (\lambda \alpha^2) I`. It calls no Jacobian.
"""

import equinox as eqx
from jax import Array

from ..checks import check_numbers
from .base import PosteriorDenoiser, Problem


class DiffPIR(PosteriorDenoiser):
    """Plug-and-play restoration by a proximal step; one evaluation a call.

    Attributes:
        weight: lambda, how much the denoiser's estimate counts; the paper takes 3 to 25.
        iterations: of the conjugate gradients, at most; they call no network.
        tolerance: of the conjugate gradients, relative to the residual.
    """

    weight: float = 10.0
    iterations: int = eqx.field(default=30, static=True)
    tolerance: float = 1e-5

    def __check_init__(self):
        check_numbers("weight > 0", lambda value: value > 0, self.weight)

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`."""
        variance = problem.level**2 / self.weight
        weights = problem.solve(lambda v: variance * v, self.iterations, self.tolerance)
        return variance * problem.tangent.adjoint(weights)
