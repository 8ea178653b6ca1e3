r"""MMPS, moment matching posterior sampling (Rozet et al. 2024, arXiv:2405.13712).

It takes Tweedie's covariance whole, :math:`C = (\sigma^2 / \alpha) J`, and solves

.. math:: (S + A C A^T) v = y - A D, \qquad D_y = D + C A^T v,

by conjugate gradients, each of which costs a product with the network's Jacobian. It is exact for
Gaussian data when enough iterations are made.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..evaluations import repeat_evaluations
from .base import PosteriorDenoiser, Problem


class State(NamedTuple):
    """Where conjugate gradients stand, for one sample."""

    shift: Array  # C A^T v so far
    residual: Array  # of the equation
    direction: Array  # along which v moves next
    size: Array  # squared norm of the residual, ()
    best: Array  # the shift with the least residual so far
    best_size: Array  # of that residual


class MMPS(PosteriorDenoiser):
    """Moment matching; `iterations` + 1 evaluations a call, all but one of them products.

    Attributes:
        iterations: of the conjugate gradients; one, as some use, solves nothing but problems whose
            :math:`A C A^T` is a multiple of the identity.
        tolerance: of the remaining residual, relative to the first one, at which a sample stays
            where it is. Those beside it go on, so that all iterations count.
    """

    iterations: int = eqx.field(default=8, static=True)
    tolerance: float = 1e-4

    def shift(self, problem: Problem) -> Array:
        """Return D_y - D; see `PosteriorDenoiser.shift`.

        The sum of C A^T times the directions is kept, which a solver from a library would not do:
        it would cost one more product at the start and one at the end, and three times the
        compilation. The Jacobian of a trained network is neither symmetric nor positive, for which
        conjugate gradients may move away from the solution: they stop at a direction of negative
        curvature, and the shift with the least residual is taken.
        """
        rounding = 10 * jnp.finfo(problem.tangent.residual.dtype).eps
        least = jnp.maximum(self.tolerance, rounding) ** 2 * jnp.sum(problem.tangent.residual**2)

        def iteration(_, state: State) -> State:
            moved = problem.tweedie(problem.tangent.adjoint(state.direction))
            image = problem.variance * state.direction + problem.tangent.forward(moved)
            curvature = jnp.sum(state.direction * image)
            going = (state.size > least) & (curvature > 0)
            step = jnp.where(going, state.size / jnp.where(going, curvature, 1.0), 0.0)
            residual = state.residual - step * image
            size = jnp.sum(residual**2)
            turn = jnp.where(going, size / jnp.where(going, state.size, 1.0), 0.0)
            shift = state.shift + step * moved
            better = size < state.best_size
            return State(
                shift=shift,
                residual=residual,
                direction=residual + turn * state.direction,
                size=size,
                best=jnp.where(better, shift, state.best),
                best_size=jnp.where(better, size, state.best_size),
            )

        nothing = jnp.zeros_like(problem.tangent.adjoint(problem.tangent.residual))
        size = jnp.sum(problem.tangent.residual**2)
        start = State(
            shift=nothing,
            residual=problem.tangent.residual,
            direction=problem.tangent.residual,
            size=size,
            best=nothing,
            best_size=size,
        )
        with repeat_evaluations(self.iterations):
            return jax.lax.fori_loop(0, self.iterations, iteration, start).best
