r"""The score of data in one or two dimensions, by solving the Fokker-Planck equation.

For a linear SDE the density q of :math:`y = x / \alpha` obeys the heat equation in
:math:`\tau = \sigma^2 / \alpha^2`,

.. math:: \partial_\tau q = \tfrac12 \Delta q ,

solved here by conservative finite volumes, Crank and Nicolson's steps along one axis after the
other, without flux through the walls. It starts from the training examples blurred to the cleanest
of the levels; the score of :math:`x_t` is :math:`\nabla \log q / \alpha`.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.linalg import solve_banded

from sde_lib import SDE, in_float64

CELLS = 256  # along each axis
STEPS = 32  # from one noise level to the next


def evolve(q: np.ndarray, width: float, tau: float) -> np.ndarray:
    """Return the density q after a time `tau` of the heat equation.

    It is given and returned on cells of a `width` along its one or two axes.
    """
    n = len(q)
    r = tau / STEPS / (4 * width**2)
    diagonal = np.full(n, 1 + 2 * r)
    diagonal[[0, -1]] = 1 + r
    bands = np.stack([np.full(n, -r), diagonal, np.full(n, -r)])
    for _ in range(STEPS):
        for axis in range(q.ndim):
            rows = np.moveaxis(q, axis, 0)
            flux = np.diff(rows, axis=0, prepend=rows[:1], append=rows[-1:])
            explicit = rows + r * np.diff(flux, axis=0)
            q = np.moveaxis(solve_banded((1, 1), bands, explicit), 0, axis)
    return q


def blurred(points: np.ndarray, grid: np.ndarray, level: float) -> np.ndarray:
    """Return the density, on the grid's cells, of `points` with Gaussian noise.

    `points` are (n, d), d = 1 or 2, and `level` is the noise's standard deviation.
    """
    distances = (grid[:, None, None] - points[None]) / level  # (cells, n, d)
    kernels = np.exp(-0.5 * distances**2) / (np.sqrt(2 * np.pi) * level)
    if points.shape[1] == 1:
        return kernels[..., 0].mean(1)
    return kernels[..., 0] @ kernels[..., 1].T / len(points)


def score_error(
    denoise: Any, sde: SDE, points: np.ndarray, t: np.ndarray, low: float = 0.2, high: float = 2.0
) -> np.ndarray:
    """Return E |s - s_pde|^2 / E |s_pde|^2 at times `t`.

    It is NaN where sigma / alpha is not between `low` and `high` times the data's sd.

    The mean is over noisy training examples `points` (n, d), d = 1 or 2.
    """
    alpha, sigma = in_float64(sde.marginal, t)
    level = sigma / alpha
    sd = points.std(0).mean()
    inside = np.flatnonzero((level > low * sd) & (level < high * sd))
    errors = np.full(len(t), np.nan)
    if not len(inside):
        return errors
    size = np.abs(points).max() + 4 * level[inside].max()
    width = 2 * size / CELLS
    grid = -size + width * (np.arange(CELLS) + 0.5)
    compiled = eqx.filter_jit(denoise)
    rng = np.random.default_rng(0)
    reached = level[inside[0]]  # the noise level of the density q
    q = blurred(points, grid, reached)
    for i in inside:
        q = evolve(q, width, level[i] ** 2 - reached**2)
        reached = level[i]
        y = points + level[i] * rng.standard_normal(points.shape)
        expected = _gradient_of_log(q, grid, width)(y) / alpha[i]
        x = jnp.asarray(alpha[i] * y, jnp.float32)
        noise = compiled(x, jnp.full(len(x), t[i], jnp.float32)).noise
        score = -np.asarray(noise, np.float64) / sigma[i]
        errors[i] = np.mean((score - expected) ** 2) / np.mean(expected**2)
    return errors


def _gradient_of_log(q: np.ndarray, grid: np.ndarray, width: float) -> RegularGridInterpolator:
    """Return the function of points (n, d) that interpolates the gradient of log q."""
    log_q = np.log(np.maximum(q, 1e-30))
    slopes = np.stack([np.gradient(log_q, width, axis=axis) for axis in range(q.ndim)], -1)
    return RegularGridInterpolator([grid] * q.ndim, slopes, bounds_error=False, fill_value=None)
