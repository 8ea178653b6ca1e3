"""Correlated measurement noise, made uncorrelated."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array


class Whitened(eqx.Module):
    """An operator whose correlated noise has become uncorrelated, of standard deviation 1.

    With the factor L of the noise's covariance, L^-1 y = L^-1 A(x) + white noise::

        whitened = Whitened(operator, cov)
        method = MMPS(denoise, sde, whitened, std=1.0)
        cond = Measurement(whitened.whiten(y))

    Attributes:
        operator: the operator of the measurement.
        factor: lower triangular, (entries of a measurement, entries of a measurement).
    """

    operator: Callable[[Array], Array]
    factor: Array

    def __init__(self, operator: Callable[[Array], Array], cov: npt.ArrayLike):
        """Factorise the covariance of the noise of a flattened measurement.

        Raises:
            ValueError: it is no positive definite matrix.
        """
        self.operator = operator
        try:
            factor = np.linalg.cholesky(np.asarray(cov, np.float64))
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

    def _white(self, y: Array) -> Array:
        """Return one measurement, whitened."""
        factor = self.factor.astype(y.dtype)
        flat = jax.scipy.linalg.solve_triangular(factor, y.reshape(-1), lower=True)
        return flat.reshape(y.shape)
