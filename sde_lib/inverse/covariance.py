r"""The covariance of the data, as inverse problems use it.

Clean data given the state have, were the data Gaussian with covariance :math:`\Sigma`, the
covariance :math:`C = (\Sigma^{-1} + (\alpha / \sigma)^2 I)^{-1}`, whatever the state is.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from ..arrays import matmul


class Covariance(eqx.Module):
    """A covariance of flattened samples by its eigenvalues.

    Attributes:
        variances: along the columns of `basis`, (entries,), or (1,) if all are equal.
        basis: orthonormal (entries, entries), or None for the coordinates themselves.
    """

    variances: Array
    basis: Array | None

    @classmethod
    def of(cls, cov: npt.ArrayLike) -> "Covariance":
        """Return the covariance that `cov` stands for.

        Args:
            cov: one variance, one for each entry of a flattened sample, or the whole matrix.

        Raises:
            ValueError: it is no covariance.
        """
        values = np.asarray(cov, np.float64)
        square = values.ndim < 2 or (values.ndim == 2 and values.shape[0] == values.shape[1])
        if not square or not values.size or not np.all(np.isfinite(values)):
            raise ValueError(
                "cov is one variance, a vector of variances, or a square matrix for flattened "
                f"samples, all finite, got shape {values.shape}"
            )
        basis = None
        if values.ndim == 2:
            values, directions = np.linalg.eigh(values)
            basis = jnp.asarray(directions, jnp.float32)
        if np.any(values < -1e-6 * np.abs(values).max()):
            raise ValueError(f"variances are not negative, got {values.min()}")
        return cls(
            variances=jnp.asarray(np.maximum(values, 0.0).reshape(-1), jnp.float32), basis=basis
        )

    def given_state(self, level: Array) -> "Covariance":
        """Return that of clean data given the state at a noise level sigma / alpha, ()."""
        variances = level**2 * self.variances / (level**2 + self.variances)
        return Covariance(variances=variances, basis=self.basis)

    def gain(self, level: Array) -> "Covariance":
        """Return (Sigma + level^2 I)^-1 Sigma: what a move of x / alpha moves clean data by."""
        variances = self.variances / (level**2 + self.variances)
        return Covariance(variances=variances, basis=self.basis)

    def times(self, vectors: Array) -> Array:
        """Return the product with vectors (number, entries)."""
        return self._scaled(self.variances, vectors)

    def root_times(self, vectors: Array) -> Array:
        """Return the product of the symmetric root with vectors (number, entries)."""
        return self._scaled(jnp.sqrt(self.variances), vectors)

    def _scaled(self, scale: Array, vectors: Array) -> Array:
        """Return vectors (number, entries) scaled along the directions."""
        if self.basis is None:
            return scale[None] * vectors
        return matmul(scale[None] * matmul(vectors, self.basis), self.basis.T)
