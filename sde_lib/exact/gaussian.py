r"""Gaussian data, :math:`\mathcal{N}(m, C)` with :math:`C = U \operatorname{diag}(c) U^T`: the marginals stay Gaussian,

.. math:: p_t = \mathcal{N}(\alpha m, U \operatorname{diag}(h^2) U^T), \qquad h^2 = \alpha^2 c + \sigma^2,

and with the whitened coordinates :math:`z = U^T (x - \alpha m) / h` everything is one rotation away,

.. math:: \nabla \log p_t = -U (z / h), \qquad E[x_0 \mid x] = m + U (\alpha c\, z / h), \qquad \Delta \log p_t = -\sum 1 / h^2 .

Along the probability flow z is constant, so from t to s: :math:`x_s = \alpha_s m + U (h_s z)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from ..arrays import expand_time
from ..base import SDE
from .base import DataDistribution, Marginal, Moments, check_state, compiled, finite, matmul


class Gaussian(DataDistribution):
    """Normal data with any covariance, singular ones included.

    Attributes:
        mean: (d,).
        basis, variances: eigenvectors, as columns (d, d), and eigenvalues (d,) of the covariance.
    """

    mean: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d d"]
    variances: Float[np.ndarray, " d"]

    def __init__(self, mean: npt.ArrayLike, cov: npt.ArrayLike):
        """Factorise the covariance `cov` (d, d) of data with mean `mean` (d,).

        Raises:
            ValueError: shapes disagree, or `cov` is no covariance matrix.
        """
        self.mean = finite("mean", mean, 1)
        self.basis, self.variances = factorise(cov, len(self.mean))

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        z = jax.random.normal(key, (n, len(self.mean)))
        return jnp.asarray(self.mean)[None] + matmul(
            z, jnp.sqrt(self.variances)[:, None] * self.basis.T
        )

    def data_moments(self) -> Moments:
        return Moments(jnp.asarray(self.mean), covariance(self.basis, self.variances))

    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        return gaussian_marginal(
            sde, check_state(x, len(self.mean)), t, self.mean, self.basis, self.variances
        )

    @compiled
    def flow(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike, s: ArrayLike
    ) -> Float[Array, "batch d"]:
        """Move `x` along the exact probability flow from time `t` to time `s`, earlier or later; singular only where h = 0."""
        at, to = (
            Frame.at(
                sde, check_state(x, len(self.mean)), time, self.mean, self.basis, self.variances
            )
            for time in (t, s)
        )
        return to.mean + matmul(to.h * at.whiten(x), to.basis.T)

    @compiled
    def model_log_prob(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike
    ) -> Float[Array, " batch"]:
        """Return the log-density at `x`, time `t`, of the flow that starts from the SDE's prior at t = 1, in nats.

        It is what an exact likelihood computation gives. `log_prob` differs by the prior's mismatch with p_1.
        """
        at, end = (
            Frame.at(
                sde, check_state(x, len(self.mean)), time, self.mean, self.basis, self.variances
            )
            for time in (t, 1.0)
        )
        return sde.prior_log_prob(self.flow(sde, x, t, 1.0)) + jnp.sum(jnp.log(end.h / at.h), -1)


class Frame(NamedTuple):
    """Mean, eigenvectors and standard deviations h of x_t, in the precision of x and broadcastable against it."""

    mean: Array
    basis: Array
    h: Array

    @classmethod
    def at(
        cls,
        sde: SDE,
        x: Array,
        t: ArrayLike,
        mean: ArrayLike,
        basis: ArrayLike,
        variances: ArrayLike,
    ) -> "Frame":
        (alpha, sigma), m, c = (
            sde.marginal(expand_time(t, x)),
            jnp.asarray(mean, x.dtype),
            jnp.asarray(variances, x.dtype),
        )
        return cls(
            alpha * m[None], jnp.asarray(basis, x.dtype), jnp.sqrt(alpha**2 * c[None] + sigma**2)
        )

    def whiten(self, x: Array) -> Array:
        return matmul(x - self.mean, self.basis) / self.h


def gaussian_marginal(
    sde: SDE, x: Array, t: ArrayLike, mean: ArrayLike, basis: ArrayLike, variances: ArrayLike
) -> Marginal:
    """Return what is known of one Gaussian, given by the eigenvectors and eigenvalues of its covariance."""
    at = Frame.at(sde, x, t, mean, basis, variances)
    z, h, gain = (
        at.whiten(x),
        at.h,
        sde.marginal(expand_time(t, x))[0] * jnp.asarray(variances, x.dtype)[None],
    )
    log_prob = -jnp.sum(0.5 * z**2 + jnp.log(h) + 0.5 * jnp.log(2 * jnp.pi), -1)
    x0 = jnp.asarray(mean, x.dtype)[None] + matmul(gain * z / h, at.basis.T)
    return Marginal(
        log_prob, -matmul(z / h, at.basis.T), x0, jnp.broadcast_to(-jnp.sum(h**-2, -1), x.shape[:1])
    )


def covariance(basis: ArrayLike, variances: ArrayLike) -> Array:
    """Return the matrix with these eigenvectors, as columns, and eigenvalues."""
    basis = jnp.asarray(basis)
    return matmul(basis * jnp.asarray(variances)[None], basis.T)


def factorise(cov: npt.ArrayLike, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors, as columns, and eigenvalues of the covariance matrix `cov`, or raise a ValueError if it is none."""
    cov = finite("a covariance", cov, 2)
    size = np.abs(cov).max()
    if cov.shape != (d, d) or np.any(np.abs(cov - cov.T) > 1e-6 * size):
        raise ValueError(
            f"need a symmetric covariance of shape {(d, d)}, got shape {cov.shape}; for variances v pass np.diag(v)"
        )
    variances, basis = np.linalg.eigh((cov + cov.T) / 2)
    if variances[0] < -1e-6 * size:
        raise ValueError(f"need a covariance without negative eigenvalues, got {variances[0]}")
    return basis, np.maximum(variances, 0.0)
