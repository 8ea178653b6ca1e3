r"""The twist of twisted sequential Monte Carlo: the density of a measurement given the state,

.. math:: \psi_t(x) = \mathcal{N}\big(y;\, A D(x) + b,\, V_t\big), \qquad V_t = S + A C_t A^T,

with the covariance that Gaussian data of covariance :math:`\Sigma` would have given the state,
:math:`C_t = (\Sigma^{-1} + (\alpha / \sigma)^2 I)^{-1}`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy.typing as npt
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Key

from sde_lib.arrays import matmul
from sde_lib.inverse.covariance import Covariance
from sde_lib.inverse.measurement import check_fits, check_std

TOLERANCE = 1e-4  # of a linear operator's sums, relative to their size


class Factor(eqx.Module):
    """A covariance V = L L^T of measurements.

    Solving triangular systems for many particles costs forty times a product on CPU, so that the
    inverse is kept.

    Attributes:
        root: L, lower triangular (m, m).
        inverse: L^-1.
    """

    root: Array
    inverse: Array

    @classmethod
    def of(cls, cov: Array) -> "Factor":
        """Factorise a covariance (m, m)."""
        root = jnp.linalg.cholesky(cov)
        identity = jnp.eye(len(cov), dtype=cov.dtype)
        inverse = jax.scipy.linalg.solve_triangular(root, identity, lower=True)
        return cls(root=root, inverse=inverse)

    @property
    def log_scale(self) -> Array:
        """Half the log-determinant of V."""
        return jnp.sum(jnp.log(jnp.diagonal(self.root)))

    def white(self, residual: Array) -> Array:
        """Return L^-1 times residuals (particles, m)."""
        return matmul(residual, self.inverse.T)

    def solve(self, residual: Array) -> Array:
        """Return V^-1 times residuals (particles, m)."""
        return matmul(self.white(residual), self.inverse)


class Twist(eqx.Module):
    """The measurement of one sample, on flattened samples (particles, d).

    Attributes:
        y: the measurement (m,), without what the operator makes of 0.
        matrix: of the operator (m, d).
        noise: variances of the measurement's noise (m,).
        cov: of the data.
    """

    y: Array
    matrix: Array
    noise: Array
    cov: Covariance

    def conditional(self, level: Array) -> "Conditional":
        """Return what belongs to one noise level sigma / alpha."""
        given_state = self.cov.given_state(level)
        cov = matmul(self.matrix, given_state.times(self.matrix).T) + jnp.diag(self.noise)
        return Conditional(twist=self, level=level, given_state=given_state, factor=Factor.of(cov))

    def residual(self, x0: Array, y: Array | None = None) -> Array:
        """Return y - A x0 of clean data (particles, d), (particles, m)."""
        return (self.y[None] if y is None else y) - matmul(x0, self.matrix.T)


class Conditional(eqx.Module):
    """The twist at one noise level.

    Attributes:
        twist: the measurement.
        level: sigma / alpha, ().
        given_state: the covariance C of clean data given the state.
        factor: of V.
    """

    twist: Twist
    level: Array
    given_state: Covariance
    factor: Factor

    def log_density(self, x0: Array) -> Array:
        """Return log psi of expected clean data (particles, d), (particles,)."""
        white = self.factor.white(self.twist.residual(x0))
        constant = self.factor.log_scale + 0.5 * len(self.twist.y) * jnp.log(2 * jnp.pi)
        return -0.5 * jnp.sum(white**2, -1) - constant

    def draw(self, keys: Key[Array, " particles"], x0: Array) -> Array:
        """Draw clean data (particles, d) from N(x0, C) given y, exactly (Matheron's rule)."""
        of_sample, of_measurement = _noises(keys, x0, len(self.twist.y))
        x = x0 + self.given_state.root_times(of_sample)
        noisy = self.twist.y[None] - jnp.sqrt(self.twist.noise)[None] * of_measurement
        weights = self.factor.solve(self.twist.residual(x, noisy))
        return x + self.given_state.times(matmul(weights, self.twist.matrix))

    def move(self, scale: Array) -> "Move":
        """Return what the measurement says of the fresh noise of a step that ends at this level.

        Args:
            scale: of the noise, over alpha at the end of the step.
        """
        sensitivity = scale * self.twist.cov.gain(self.level).times(self.twist.matrix)
        cov = matmul(self.factor.root, self.factor.root.T) + matmul(sensitivity, sensitivity.T)
        return Move(conditional=self, sensitivity=sensitivity, factor=Factor.of(cov))


class Move(eqx.Module):
    r"""The fresh noise z of a step to s, as the measurement would have it.

    In the model :math:`y = A D(x_t) + M z + N(0, V_s)`, where z moves the state by scale z and with
    it clean data by :math:`\Sigma (\Sigma + (\sigma_s / \alpha_s)^2 I)^{-1} / \alpha_s`, z given y
    is Gaussian, and is drawn exactly.

    Attributes:
        conditional: the twist at s.
        sensitivity: M (m, d).
        factor: of V_s + M M^T.
    """

    conditional: Conditional
    sensitivity: Array
    factor: Factor

    def draw(self, keys: Key[Array, " particles"], x0: Array) -> tuple[Array, Array]:
        """Return z (particles, d), and log p(z) - log q(z) of each, for clean data D at t."""
        of_sample, of_measurement = _noises(keys, x0, len(self.sensitivity))
        residual = self.conditional.twist.residual(x0)
        mean = self._towards(residual)
        misfit = matmul(of_sample, self.sensitivity.T)
        misfit += matmul(of_measurement, self.conditional.factor.root.T)
        z = mean + of_sample - self._towards(misfit)
        from_mean = z - mean
        seen = self.conditional.factor.white(matmul(from_mean, self.sensitivity.T))
        log_scale = self.factor.log_scale - self.conditional.factor.log_scale
        squares = jnp.sum(from_mean**2, -1) + jnp.sum(seen**2, -1) - jnp.sum(z**2, -1)
        return z, 0.5 * squares - log_scale

    def _towards(self, residual: Array) -> Array:
        """Return M^T (V_s + M M^T)^-1 of residuals (particles, m)."""
        return matmul(self.factor.solve(residual), self.sensitivity)


def _noises(keys: Key[Array, " particles"], x0: Array, size: int) -> tuple[Array, Array]:
    """Draw standard normal noise for each sample (particles, d) and measurement (particles, m)."""

    def one(key):
        of_sample, of_measurement = jax.random.split(key)
        return (
            jax.random.normal(of_sample, x0.shape[1:], x0.dtype),
            jax.random.normal(of_measurement, (size,), x0.dtype),
        )

    return jax.vmap(one)(keys)


def make_twist(
    operator: Callable[[Array], Array],
    y: Array,
    std: ArrayLike,
    shape: tuple[int, ...],
    cov: npt.ArrayLike,
) -> Twist:
    """Return the twist of one measurement.

    Args:
        operator: linear, maps one sample to its measurement; a constant may be added.
        y: the measurement, of the shape that the operator gives.
        std: standard deviation of the measurement's noise, a number or of the shape of y.
        shape: of one sample.
        cov: of the data: one variance, one for each entry of a flattened sample, or a matrix.

    Raises:
        ValueError: a measurement or covariance that does not fit, or an operator that is not
            linear.
    """
    check_std(std)
    zero = jnp.zeros(shape)
    constant = operator(zero)
    y = jnp.asarray(y)
    check_fits(y, constant)
    size = zero.size
    matrix = jax.jacfwd(operator)(zero).reshape(constant.size, size)
    trial = jax.random.normal(jax.random.key(0), shape)
    linear = matmul(matrix, trial.reshape(-1)) + constant.reshape(-1)
    error = jnp.max(jnp.abs(operator(trial).reshape(-1) - linear))
    if error > TOLERANCE * (1 + jnp.max(jnp.abs(linear))):
        raise ValueError(
            "the twisted sampler takes linear operators, but this one differs from its tangent by "
            f"{float(error):.2g}; DPS and DAPS take any"
        )
    of_data = Covariance.of(cov)
    if of_data.variances.size not in (1, size):
        raise ValueError(
            f"cov has {of_data.variances.size} variances, but a sample of shape {shape} has {size} "
            "entries"
        )
    return Twist(
        y=(y - constant).reshape(-1),
        matrix=matrix,
        noise=jnp.broadcast_to(jnp.asarray(std, y.dtype) ** 2, y.shape).reshape(-1),
        cov=of_data,
    )
