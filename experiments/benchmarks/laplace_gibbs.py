r"""Exact posterior samples of a walk with Laplace increments under a linear measurement.

A Laplace increment is a Gaussian whose variance is exponential, :math:`w_i \mid \tau_i \sim
\mathcal{N}(0, \tau_i)` with :math:`\tau_i \sim \mathrm{Exp}` of mean :math:`2 b^2` (Park and Casella
2008, Bayesian lasso, doi:10.1198/016214508000000337). A Gibbs sampler draws in turn

- all increments given the variances and :math:`y = A x + n`: a Gaussian, drawn by moving a draw of
  the prior onto the measurement,
- each variance given its increment: :math:`1 / \tau_i` is inverse Gaussian of mean
  :math:`1 / (b |w_i|)` and shape :math:`1 / b^2` (Michael, Schucany and Haas 1976).
"""

import numpy as np

SWEEPS = 100  # means and sizes of increments stop changing within 10, over 3000 sweeps


def draw_walks(
    rng: np.random.Generator,
    scale: float,
    matrix: np.ndarray,
    y: np.ndarray,
    noise_std: float,
    n: int,
    sweeps: int = SWEEPS,
) -> np.ndarray:
    """Return `n` independent walks (n, d) given y = matrix x + noise, one from each of `n` chains.

    Args:
        rng: where the randomness comes from.
        scale: b of the increments.
        matrix: (m, d).
        y: (m,).
        noise_std: standard deviation of the noise.
        n: number of chains.
        sweeps: of each chain, from the prior on.
    """
    d = matrix.shape[1]
    of_increments = matrix @ np.tril(np.ones((d, d)))  # A as a matrix on increments
    variances = rng.exponential(2 * scale**2, (n, d))
    increments = np.zeros((n, d))
    for _ in range(sweeps):
        increments = draw_increments(rng, variances, of_increments, y, noise_std)
        variances = draw_variances(rng, np.abs(increments), scale)
    return np.cumsum(increments, 1)


def draw_increments(
    rng: np.random.Generator,
    variances: np.ndarray,
    matrix: np.ndarray,
    y: np.ndarray,
    noise_std: float,
) -> np.ndarray:
    """Return Gaussian increments (n, d) of these variances (n, d), given y = matrix w + noise."""
    prior = np.sqrt(variances) * rng.standard_normal(variances.shape)
    noise = noise_std * rng.standard_normal((len(variances), len(y)))
    seen = variances[:, None] * matrix  # (n, m, d), A times the prior covariance
    cov = seen @ matrix.T + noise_std**2 * np.eye(len(y))
    residual = y - prior @ matrix.T - noise
    weights = np.linalg.solve(cov, residual[..., None])[..., 0]
    return prior + np.einsum("nm,nmd->nd", weights, seen)


def draw_variances(rng: np.random.Generator, sizes: np.ndarray, scale: float) -> np.ndarray:
    """Return the variances of Laplace increments whose absolute values are `sizes`.

    The reciprocals of an inverse Gaussian's two candidates are written so that nothing cancels or
    overflows where a size is 0.
    """
    mean = scale * sizes
    shift = 0.5 * scale**2 * rng.standard_normal(sizes.shape) ** 2
    larger = mean + shift + np.sqrt(shift * (2 * mean + shift))
    is_larger = rng.uniform(size=sizes.shape) * (mean + larger) < larger
    return np.where(is_larger, larger, mean**2 / larger)
