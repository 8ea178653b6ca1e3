"""Measurement noise that is correlated, or of several sizes, made white."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from ..arrays import matmul


class Whitened(eqx.Module):
    """An operator whose noise has become uncorrelated, of standard deviation 1.

    With the factor L of the noise's covariance, L^-1 y = L^-1 A(x) + white noise::

        whitened = Whitened(operator, cov)
        method = MMPS(denoise, sde, whitened, std=1.0)
        cond = Measurement(whitened.whiten(y))

    Attributes:
        operator: the operator of the measurement.
        factor: lower triangular, (entries of a measurement, entries of a measurement), or its
            diagonal (entries,) if the noise is uncorrelated.
    """

    operator: Callable[[Array], Array]
    factor: Array

    def __init__(self, operator: Callable[[Array], Array], cov: npt.ArrayLike):
        """Factorise the covariance of the noise of a flattened measurement.

        Args:
            operator: that of the measurement.
            cov: the matrix, or its diagonal (entries,) if the noise is uncorrelated.

        Raises:
            ValueError: it is no positive definite matrix.
        """
        self.operator = operator
        values = np.asarray(cov, np.float64)
        if values.ndim == 1 and np.all(values > 0) and np.all(np.isfinite(values)):
            self.factor = jnp.asarray(np.sqrt(values), jnp.float32)
            return
        try:
            factor = np.linalg.cholesky(values)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise ValueError(
                f"need a positive definite covariance of the noise, got shape {np.shape(cov)}: "
                f"{error}"
            ) from None
        self.factor = jnp.asarray(factor, jnp.float32)

    def __call__(self, x: Array) -> Array:
        """Return the whitened measurement of one sample."""
        return self._white(self.operator(x))

    def whiten(self, y: Array) -> Array:
        """Return whitened measurements, for those of a batch (batch, ...)."""
        return jax.vmap(self._white)(y)

    def noise(self, z: Array) -> Array:
        """Return noise of the covariance, of white noise `z` of a batch (batch, ...)."""
        flat = z.reshape(len(z), -1)
        factor = self.factor.astype(z.dtype)
        noise = factor[None] * flat if factor.ndim == 1 else matmul(flat, factor.T)
        return noise.reshape(z.shape)

    def _white(self, y: Array) -> Array:
        """Return one measurement, whitened."""
        factor = self.factor.astype(y.dtype)
        if factor.ndim == 1:
            return (y.reshape(-1) / factor).reshape(y.shape)
        flat = jax.scipy.linalg.solve_triangular(factor, y.reshape(-1), lower=True)
        return flat.reshape(y.shape)
