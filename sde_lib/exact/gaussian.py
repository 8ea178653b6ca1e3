r"""Gaussian data, :math:`\mathcal{N}(m, C)` with :math:`C = U \operatorname{diag}(c) U^T`: the
marginals stay Gaussian,

.. math:: p_t = \mathcal{N}(\alpha m, U \operatorname{diag}(h^2) U^T), \qquad
    h^2 = \alpha^2 c + \sigma^2,

and with the whitened coordinates :math:`z = U^T (x - \alpha m) / h` everything is one rotation
away,

.. math:: \nabla \log p_t = -U (z / h), \qquad
    E[x_0 \mid x] = m + U (\alpha c\, z / h), \qquad
    \Delta \log p_t = -\sum 1 / h^2 .

Along the probability flow z is constant, so from t to s: :math:`x_s = \alpha_s m + U (h_s z)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from ..arrays import expand_time, matmul
from ..base import SDE
from .base import DataDistribution, Marginal, Moments, check_state, compiled, finite
from .posterior import Measured, Posterior


class Gaussian(DataDistribution):
    """Normal data with any covariance, singular ones included.

    Attributes:
        mean: (d,).
        basis: eigenvectors of the covariance, as columns (d, d).
        variances: its eigenvalues (d,).
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
        """Draw `n` data points (n, d)."""
        z = jax.random.normal(key, (n, len(self.mean)))
        root = jnp.sqrt(self.variances)[:, None] * self.basis.T
        return jnp.asarray(self.mean)[None] + matmul(z, root)

    def data_moments(self) -> Moments:
        """Return the mean (d,) and the covariance (d, d)."""
        cov = covariance(self.basis, self.variances)
        return Moments(mean=jnp.asarray(self.mean), cov=cov)

    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        """Return everything known of p_t at `x`; see `DataDistribution.marginal`."""
        x = check_state(x, len(self.mean))
        return gaussian_marginal(sde, x, t, self.mean, self.basis, self.variances)

    def posterior(
        self, matrix: npt.ArrayLike, y: npt.ArrayLike, noise_cov: npt.ArrayLike | float
    ) -> Posterior:
        """Return the law of x given y = matrix x + noise, a `Gaussian`, and log p(y).

        Args:
            matrix: (m, d).
            y: the measurement (m,).
            noise_cov: covariance of the Gaussian noise: a number (that variance in each
                measurement), the variances (m,), or a matrix (m, m). 0 is an exact observation.

        Raises:
            ValueError: shapes disagree, a value is traced or not finite, `noise_cov` is no
                covariance, or y has no density because measurements without noise depend on each
                other.
        """
        measured = Measured.checked(matrix, y, noise_cov, len(self.mean))
        mean, cov, log_evidence = measured.condition(self.mean, self.basis, self.variances)
        return Posterior(data=Gaussian(mean, cov), log_evidence=log_evidence)

    def _frame(self, sde: SDE, x: Array, t: ArrayLike) -> "Frame":
        """Return the frame at time `t` for the states `x`."""
        x = check_state(x, len(self.mean))
        return Frame.at(sde, x, t, self.mean, self.basis, self.variances)

    @compiled
    def flow(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike, s: ArrayLike
    ) -> Float[Array, "batch d"]:
        """Move `x` along the exact probability flow from time `t` to time `s`.

        It is singular only where h = 0.

        Args:
            sde: the process.
            x: states at `t` (batch, d).
            t: time of shape () or (batch,).
            s: another one, earlier or later.
        """
        at, to = self._frame(sde, x, t), self._frame(sde, x, s)
        return to.mean + matmul(to.h * at.whiten(x), to.basis.T)

    @compiled
    def model_log_prob(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike
    ) -> Float[Array, " batch"]:
        """Return the log-density of the flow that starts from the prior at t = 1, in nats,
        (batch,).

        It is what an exact likelihood computation gives. `log_prob` differs by the prior's mismatch
        with p_1.

        Args:
            sde: the process.
            x: states (batch, d).
            t: their time, of shape () or (batch,).
        """
        at, end = self._frame(sde, x, t), self._frame(sde, x, 1.0)
        return sde.prior_log_prob(self.flow(sde, x, t, 1.0)) + jnp.sum(jnp.log(end.h / at.h), -1)


class Frame(NamedTuple):
    """Mean, eigenvectors and standard deviations of x_t, in the precision of x."""

    mean: Array  # (1, d) or (batch, d)
    basis: Array  # (d, d)
    h: Array  # (1, d) or (batch, d)

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
        """Return the frame at time `t` for states like `x`, of data with these moments."""
        alpha, sigma = sde.marginal(expand_time(t, x))
        m = jnp.asarray(mean, x.dtype)
        c = jnp.asarray(variances, x.dtype)
        return cls(
            mean=alpha * m[None],
            basis=jnp.asarray(basis, x.dtype),
            h=jnp.sqrt(alpha**2 * c[None] + sigma**2),
        )

    def whiten(self, x: Array) -> Array:
        """Return the coordinates z of the states `x`, (batch, d) each."""
        return matmul(x - self.mean, self.basis) / self.h


def gaussian_marginal(
    sde: SDE, x: Array, t: ArrayLike, mean: ArrayLike, basis: ArrayLike, variances: ArrayLike
) -> Marginal:
    """Return what is known of one Gaussian at the states `x` (batch, d).

    Args:
        sde: the process.
        x: states (batch, d).
        t: time of shape () or (batch,).
        mean: of the data (d,).
        basis: eigenvectors of their covariance, as columns (d, d).
        variances: its eigenvalues (d,).
    """
    at = Frame.at(sde, x, t, mean, basis, variances)
    z = at.whiten(x)
    h = at.h
    alpha, _ = sde.marginal(expand_time(t, x))
    gain = alpha * jnp.asarray(variances, x.dtype)[None]
    log_prob = -jnp.sum(0.5 * z**2 + jnp.log(h) + 0.5 * jnp.log(2 * jnp.pi), -1)
    x0 = jnp.asarray(mean, x.dtype)[None] + matmul(gain * z / h, at.basis.T)
    return Marginal(
        log_prob=log_prob,
        score=-matmul(z / h, at.basis.T),
        x0=x0,
        divergence=jnp.broadcast_to(-jnp.sum(h**-2, -1), x.shape[:1]),
    )


def covariance(basis: ArrayLike, variances: ArrayLike) -> Array:
    """Return the matrix (d, d) with these eigenvectors, as columns, and eigenvalues."""
    basis = jnp.asarray(basis)
    return matmul(basis * jnp.asarray(variances)[None], basis.T)


def factorise(cov: npt.ArrayLike, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors, as columns (d, d), and the eigenvalues (d,) of a covariance matrix.

    Raises:
        ValueError: `cov` is none of `d` dimensions.
    """
    cov = finite("a covariance", cov, 2)
    size = np.abs(cov).max()
    if cov.shape != (d, d) or np.any(np.abs(cov - cov.T) > 1e-6 * size):
        raise ValueError(
            f"need a symmetric covariance of shape {(d, d)}, got shape {cov.shape}; "
            "for variances v pass np.diag(v)"
        )
    variances, basis = np.linalg.eigh((cov + cov.T) / 2)
    if variances[0] < -1e-6 * size:
        raise ValueError(f"need a covariance without negative eigenvalues, got {variances[0]}")
    return basis, np.maximum(variances, 0.0)
