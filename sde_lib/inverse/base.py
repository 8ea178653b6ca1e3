r"""A denoiser of the posterior of an inverse problem, :math:`y = A(x_0) + \text{noise}`.

Where the law of :math:`x_0` given :math:`x_t` is close to a Gaussian with mean
:math:`D = E[x_0 \mid x_t]` and covariance C, that of the posterior has the mean

.. math:: D_y = D + C A^T (S + A C A^T)^{-1} (y - A D),

S being the covariance of the measurement noise. Tweedie's covariance is
:math:`C = (\sigma^2 / \alpha)\, \partial D / \partial x_t`. The methods differ by what they take
for C in the one place and in the other. An operator that is not linear is replaced by its tangent
at D.

Without any signal Tweedie's covariance is 0 / 0: D is the mean of the data whatever the state is,
and its limit is the covariance of the data, which no Jacobian of D at that time tells. There
:math:`C = d^2 I` is taken, d being the standard deviation of the data.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state, check_time, precision
from ..base import NO_SIGNAL, SDE, check_process
from ..estimate import Estimate, Number
from ..evaluations import evaluate, record_evaluations
from ..protocols import Denoise, sigma_data_of
from .measurement import Measurement, check_measurement, check_std
from .parts import PARTS, map_in_parts
from .tangent import Tangent

# sigma / alpha where hardly any signal is left, so that float32 holds its square
LARGEST_LEVEL = 1e6


class Problem(NamedTuple):
    """The inverse problem of one sample at one time, made linear at its expected clean data."""

    level: Array  # sigma / alpha, ()
    tangent: Tangent  # of the operator at the expected clean data D, with the residual y - A(D)
    tweedie: Callable[[Array], Array]  # v -> C v of Tweedie's covariance; costs one evaluation
    variance: Number | Array  # of the measurement noise, () or of the shape of a measurement

    def solve(
        self, covariance: Callable[[Array], Array], iterations: int, tolerance: float
    ) -> Array:
        """Return (S + A C A^T)^-1 residual for v -> C v; see `Tangent.solve`."""
        return self.tangent.solve(self.variance, covariance, iterations, tolerance)


class PosteriorDenoiser(eqx.Module):
    """A denoise function of a posterior, made of one of the prior; see `Denoise`.

    Its conditions are a `Measurement`. A new one writes `shift`.

    Attributes:
        denoise: the denoiser of the prior.
        sde: its process.
        operator: maps one sample to its measurement, see `sde_lib.inverse.operators`.
        std: standard deviation of the measurement noise, a number, or an array of the shape of one
            measurement. For correlated noise see `Whitened`.
        parts: in how many parts, one after the other, the gradients of a batch are taken, if that
            divides the batch. With 1 they are the fastest on an accelerator that has the memory.
    """

    denoise: Denoise
    sde: SDE
    operator: Callable[[Array], Array]
    std: ArrayLike
    parts: int = eqx.field(default=PARTS, static=True, kw_only=True)

    def __check_init__(self):
        if not callable(self.denoise):
            raise ValueError(f"denoise is a callable (x, t, cond), got {self.denoise!r}")
        check_process(type(self).__name__, self.sde)
        if not callable(self.operator):
            raise ValueError(f"operator maps a sample to a measurement, got {self.operator!r}")
        check_std(self.std)
        if not isinstance(self.parts, int) or self.parts < 1:
            raise ValueError(f"need parts to be a whole number of at least 1, got {self.parts!r}")

    @abc.abstractmethod
    def shift(self, problem: Problem) -> Array:
        """Return how far the measurement moves the expected clean data of one sample, D_y - D."""

    @property
    def sigma_data(self) -> Any:
        """The standard deviation of the data that the denoiser of the prior knows, 1 if none."""
        return sigma_data_of(self.denoise)

    def __call__(self, x: Array, t: ArrayLike, cond: Any) -> Estimate:
        """Return the estimate at `x` (batch, ...) and time `t`, given the measurements `cond`.

        Raises:
            ValueError: the conditions are no `Measurement`, or one that does not fit the operator.
        """
        check_measurement(cond)
        x = as_state(x)
        times = jnp.broadcast_to(jnp.asarray(check_time(t), precision(x)), x.shape[:1])
        return map_in_parts(self._one, self.parts, x, times, cond)

    def _one(self, x: Array, t: Array, measurement: Measurement) -> Estimate:
        """Return the estimate of one sample."""
        alpha, sigma = self.sde.marginal(t)
        operator = measurement.operator_or(self.operator)

        def expected(x: Array) -> tuple[Array, Array]:
            alone = jax.tree.map(lambda a: a[None], (x, t, measurement.cond))
            estimate = evaluate(self.denoise, *alone)
            return estimate.x0[0], estimate.noise[0]

        x0, transpose, noise = jax.vjp(expected, x, has_aux=True)
        signal = alpha > NO_SIGNAL
        scale = (sigma**2 / jnp.where(signal, alpha, 1.0)).astype(x.dtype)

        def tweedie(v: Array) -> Array:
            record_evaluations()
            of_data = (jnp.asarray(self.sigma_data) ** 2 * v).astype(x.dtype)
            return jnp.where(signal, scale * transpose(v)[0], of_data)

        problem = Problem(
            level=jnp.minimum(sigma / jnp.maximum(alpha, NO_SIGNAL), LARGEST_LEVEL),
            tangent=Tangent.at(operator, x0, measurement.y),
            tweedie=tweedie,
            variance=jnp.asarray(self.std, x.dtype) ** 2,
        )
        return Estimate(x0=x0, noise=noise).moved(alpha, sigma, self.shift(problem))
