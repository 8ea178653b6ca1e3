r"""The posterior of Gaussian data under a linear measurement :math:`y = A x + n`,
:math:`n \sim \mathcal{N}(0, \Sigma)`.

With :math:`S = A C A^T + \Sigma`, the covariance of y, and the gain :math:`K = C A^T S^{-1}`,

.. math:: x \mid y \sim \mathcal{N}\big(m + K (y - A m),\; (I - K A) C (I - K A)^T + K \Sigma K^T
    \big), \qquad y \sim \mathcal{N}(A m, S) .

The covariance is written in Joseph's form, a sum of two squares: :math:`C - K A C` is the same, but
loses its sign to rounding where the noise is small. Everything is computed in NumPy float64.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .base import DataDistribution, finite


class Posterior(NamedTuple):
    """The law of the data given a measurement."""

    data: DataDistribution  # of the same class as the prior
    log_evidence: float  # log p(y), in nats


class Measured(NamedTuple):
    """A linear measurement whose parts have been checked."""

    matrix: np.ndarray  # A, (m, d)
    y: np.ndarray  # (m,)
    noise_cov: np.ndarray  # (m, m)
    noise_root: np.ndarray  # a square root of it, (m, m)

    @classmethod
    def checked(
        cls, matrix: npt.ArrayLike, y: npt.ArrayLike, noise_cov: npt.ArrayLike | float, d: int
    ) -> "Measured":
        """Return the measurement y = matrix x + noise of data x (d,).

        Args:
            matrix: (m, d).
            y: (m,).
            noise_cov: covariance of the noise: a number (that variance in each measurement), the
                variances (m,), or a matrix (m, m).
            d: dimensions of the data.

        Raises:
            ValueError: shapes disagree, a value is not finite, or `noise_cov` is no covariance.
        """
        a = finite("matrix", matrix, 2)
        if a.shape[1] != d:
            raise ValueError(
                f"need a matrix of shape (m, {d}) for data of {d} dimensions, got {a.shape}; "
                "its rows are the measurements"
            )
        y = finite("y", y, 1)
        if len(y) != len(a):
            raise ValueError(
                f"need y of shape {(len(a),)}, one number for each row of the matrix, got {y.shape}"
            )
        cov, root = _noise(noise_cov, len(y))
        return cls(matrix=a, y=y, noise_cov=cov, noise_root=root)

    def condition(
        self, mean: np.ndarray, basis: np.ndarray, variances: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the posterior mean (d,) and covariance (d, d) and the log-evidence in nats.

        Args:
            mean: of the data (d,).
            basis: eigenvectors of their covariance, as columns (d, d).
            variances: its eigenvalues (d,).

        Raises:
            ValueError: the covariance of y is singular, or y is beyond what float64 can weigh.
        """
        data_root = basis * np.sqrt(variances)
        seen_root = self.matrix @ data_root
        scale, basis_y, variances_y = _factorise(seen_root @ seen_root.T + self.noise_cov)
        whiten = (basis_y / np.sqrt(variances_y)).T / scale  # W with W^T W = S^-1
        z = whiten @ (self.y - self.matrix @ mean)
        gain = (data_root @ seen_root.T) @ whiten.T @ whiten
        unseen_root = data_root - gain @ seen_root  # (I - K A) times the root of C
        noise_root = gain @ self.noise_root
        posterior_mean = mean + (data_root @ seen_root.T) @ (whiten.T @ z)
        posterior_cov = unseen_root @ unseen_root.T + noise_root @ noise_root.T
        log_det = 2 * np.sum(np.log(scale)) + np.sum(np.log(variances_y))
        log_evidence = -0.5 * (_square(z) + log_det + len(z) * np.log(2 * np.pi))
        return posterior_mean, posterior_cov, float(log_evidence)


def _square(z: np.ndarray) -> float:
    """Return |z|^2.

    Raises:
        ValueError: it overflows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(z @ z)
    if not np.isfinite(square):
        raise ValueError(
            f"need y within reach of the data, got one {np.abs(z).max():.3g} standard deviations "
            "away; check the units of y and of the noise"
        )
    return square


def _noise(noise_cov: npt.ArrayLike | float, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the covariance of the noise (m, m) and a square root of it, (m, m)."""
    axes = np.ndim(noise_cov)
    if axes == 2:
        cov = finite("noise_cov", noise_cov, 2)
        size = np.abs(cov).max()
        if cov.shape != (m, m) or np.any(np.abs(cov - cov.T) > 1e-6 * size):
            raise ValueError(
                f"need noise_cov symmetric and of shape {(m, m)}, got shape {cov.shape}; "
                "independent noise is a number or a vector of variances"
            )
        variances, basis = np.linalg.eigh((cov + cov.T) / 2)
        if variances[0] < -1e-6 * size:
            raise ValueError(
                f"need noise_cov without negative eigenvalues, got {variances[0]}; "
                "it holds variances, not standard deviations"
            )
        root = basis * np.sqrt(np.maximum(variances, 0.0))
        return root @ root.T, root
    variances = finite("noise_cov", noise_cov, min(axes, 1))
    if variances.shape not in ((), (m,)):
        raise ValueError(
            f"need noise_cov as a number, of shape {(m,)} or of shape {(m, m)}, "
            f"got shape {variances.shape}"
        )
    if np.any(variances < 0):
        raise ValueError(
            f"need noise_cov >= 0, got {variances.min()}; it holds variances, not logarithms"
        )
    variances = np.broadcast_to(variances, (m,))
    return np.diag(variances), np.diag(np.sqrt(variances))


def _factorise(cov: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (scale, basis, variances) with cov = D U diag(variances) U^T D, D = diag(scale).

    The scale makes the diagonal 1, so that measurements in other units do not look dependent.

    Raises:
        ValueError: it is singular to rounding.
    """
    scale = np.sqrt(np.diag(cov))
    lowest = 0.0
    if np.all(scale > 0):
        variances, basis = np.linalg.eigh(cov / np.outer(scale, scale))
        lowest = variances[0]
        if lowest > 4 * len(cov) * np.finfo(np.float64).eps:
            return scale, basis, variances
    raise ValueError(
        "need measurements that are not functions of each other without noise, got a covariance "
        f"A C A^T + noise_cov of y that is singular (smallest eigenvalue {lowest:.2g} of its "
        "correlations); drop the dependent measurements, or give them noise"
    )
