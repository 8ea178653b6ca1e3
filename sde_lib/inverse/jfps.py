r"""JFPS, Jacobian-free posterior sampling by the covariance of the data.

Clean data given the state are taken to have the covariance that Gaussian data would have,
:math:`C = (\Sigma^{-1} + (\alpha / \sigma)^2 I)^{-1}`, which takes no product with the network's
Jacobian. It is exact for Gaussian data.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from .base import PosteriorDenoiser, Problem
from .covariance import Covariance


class JFPS(PosteriorDenoiser):
    """Jacobian-free posterior sampling; one evaluation a call.

    Attributes:
        cov: the covariance of the data, `Covariance.of(...)`; None: that of `sigma_data`.
        iterations: of the conjugate gradients, at most; they call no network.
        tolerance: of the conjugate gradients, relative to the residual.
    """

    cov: Covariance | None = None
    iterations: int = eqx.field(default=50, static=True)
    tolerance: float = 1e-5

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`."""
        variance = jnp.reshape(jnp.asarray(self.sigma_data) ** 2, 1)
        cov = Covariance(variances=variance, basis=None) if self.cov is None else self.cov
        given_state = cov.given_state(problem.level)

        def times(v: Array) -> Array:
            return given_state.times(v.reshape(1, -1)).reshape(v.shape)

        weights = problem.solve(times, self.iterations, self.tolerance)
        return times(problem.tangent.adjoint(weights))
