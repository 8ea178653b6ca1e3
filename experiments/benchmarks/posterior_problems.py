r"""Inverse problems whose posterior is known exactly: the ground of the benchmark of posteriors.

The measurement is linear, :math:`y = A x + n` with :math:`n \sim \mathcal{N}(0, s^2 I)`. The data
have standard deviation 1 over all coordinates, so that :math:`s` is in units of their size: 0.05 is
low noise, 0.5 moderate. Gaussian data and mixtures have posteriors in closed form; the walk with
Laplace increments is drawn by a Gibbs sampler. All nine bring an exact denoiser of the prior.

`problems()` are those to look at. `kept_aside(seed)` are others of the same kinds: choose no setting
by them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from sde_lib import EDM, VP, DataDistribution, Gaussian, GaussianMixture

from . import mixtures
from .laplace_gibbs import draw_walks
from .laplace_walk import LaplaceWalk

LOW = 0.05
MODERATE = 0.5
SIDE = 8  # of the images


class Drawn(NamedTuple):
    """Data and their measurements."""

    x: np.ndarray  # (d,) or (n, d)
    y: np.ndarray  # (m,) or (n, m)


class PosteriorProblem(NamedTuple):
    """Data, how they are measured, and exact samples of the posterior."""

    name: str
    data: DataDistribution  # its `denoiser(sde)` is exact
    matrix: np.ndarray  # A, (m, d)
    noise_std: float  # s
    draw_posterior: Callable[[Key[Array, ""], np.ndarray, int], np.ndarray]  # (key, y, n) -> (n, d)
    cost: int = 1  # how dear its denoiser is; so many times fewer samples are drawn

    def draw(self, key: Key[Array, ""]) -> Drawn:
        """Draw one data point (d,) and its measurement (m,), in float64."""
        drawn = self.draw_many(key, 1)
        return Drawn(x=drawn.x[0], y=drawn.y[0])

    def draw_many(self, key: Key[Array, ""], n: int) -> Drawn:
        """Draw `n` data points (n, d) and the measurement of each (n, m), in float64."""
        of_data, of_noise = jax.random.split(key)
        x = np.asarray(self.data.sample(of_data, n), np.float64)
        noise = generator(of_noise).standard_normal((n, len(self.matrix)))
        return Drawn(x=x, y=x @ self.matrix.T + self.noise_std * noise)

    def posterior_score(self, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return the score of the posterior given `y` (m,), a function (n, d) -> (n, d) in float64.

        It is the score of the data plus A^T (y - A x) / s^2.
        """

        def score(x: np.ndarray) -> np.ndarray:
            x = np.asarray(x, np.float64)
            with jax.enable_x64(True):  # VP has no noise at t = 0
                of_data = np.asarray(self.data.score(VP(), x, 0.0), np.float64)
            return of_data + (y - x @ self.matrix.T) @ self.matrix / self.noise_std**2

        return score

    def noised_posterior_score(
        self, y: np.ndarray
    ) -> Callable[[np.ndarray, float], np.ndarray] | None:
        """Return the score of the posterior given `y` (m,) with Gaussian noise added to samples.

        It is a function of states (n, d) and a noise level, to (n, d) in float64; None where the
        posterior is not known in closed form.
        """
        if not isinstance(self.data, Gaussian | GaussianMixture):
            return None
        posterior = self.data.posterior(self.matrix, y, self.noise_std**2).data

        def score(x: np.ndarray, level: float) -> np.ndarray:
            with jax.enable_x64(True):
                return np.asarray(posterior.score(_ADDING, x, level / _ADDING.sigma_max))

        return score


_ADDING = EDM(t_min=0.0)  # adds noise sigma_max t to data


def problems() -> dict[str, PosteriorProblem]:
    """Return the nine problems of the benchmark, by name."""
    return _family([20261126])


def kept_aside(seed: int) -> dict[str, PosteriorProblem]:
    """Return nine random problems of the same kinds, other ones for each seed.

    Nobody looks at them while settings are chosen.
    """
    return _family([1, seed])


def _family(seed: list[int]) -> dict[str, PosteriorProblem]:
    """Return a problem of each kind."""
    rng = np.random.default_rng(seed)
    conjugate = (
        ("gaussian 2, row, moderate noise", _gaussian(rng, 2), _row(rng, 2), MODERATE),
        ("mixture 2, row, low noise", _mixture(rng, "far apart", 2), _row(rng, 2), LOW),
        ("mixture 2, row, moderate noise", _mixture(rng, "imbalanced", 2), _row(rng, 2), MODERATE),
        ("gaussian 16, projection, low noise", _gaussian(rng, 16), _projection(rng, 16), LOW),
        (
            "mixture 16, projection, moderate noise",
            _mixture(rng, "even", 16),
            _projection(rng, 16),
            MODERATE,
        ),
        ("gaussian 64, blur, low noise", _images(rng, 1), _blur(), LOW),
        ("mixture 64, mask, low noise", _images(rng, 4), _mask(rng, SIDE**2), LOW),
        ("mixture 64, blur, moderate noise", _images(rng, 4), _blur(), MODERATE),
    )
    every = [_conjugate(*parts) for parts in conjugate]
    every.append(_walk(_mask(rng, 16), LOW))
    return {problem.name: problem for problem in every}


def _conjugate(
    name: str, data: Gaussian | GaussianMixture, matrix: np.ndarray, noise_std: float
) -> PosteriorProblem:
    """Return a problem whose posterior is of the kind of its data."""

    def draw_posterior(key, y, n):
        posterior = data.posterior(matrix, y, noise_std**2)
        return np.asarray(posterior.data.sample(key, n), np.float64)

    return PosteriorProblem(
        name=name,
        data=data,
        matrix=matrix,
        noise_std=noise_std,
        draw_posterior=draw_posterior,
    )


def _walk(matrix: np.ndarray, noise_std: float) -> PosteriorProblem:
    """Return the masked walk with Laplace increments."""
    d = matrix.shape[1]
    scale = float(np.sqrt(1 / (d + 1)))  # the mean of 2 b^2 i over i = 1 ... d is 1
    gibbs = partial(draw_walks, scale=scale, matrix=matrix, noise_std=noise_std)
    return PosteriorProblem(
        name=f"laplace walk {d}, mask, low noise",
        data=LaplaceWalk(scale, d),
        matrix=matrix,
        noise_std=noise_std,
        draw_posterior=lambda key, y, n: gibbs(generator(key), y=y, n=n),
        cost=4,
    )


def generator(key: Key[Array, ""]) -> np.random.Generator:
    """Return a NumPy generator that depends on a JAX key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def _gaussian(rng: np.random.Generator, d: int) -> Gaussian:
    """Return Gaussian data whose variances fall as 1 / j, in random directions."""
    variances = 1 / np.arange(1.0, d + 1)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    cov = basis @ np.diag(variances / np.mean(variances)) @ basis.T
    return Gaussian(0.3 * rng.standard_normal(d), cov)


def _mixture(rng: np.random.Generator, kind: str, d: int) -> GaussianMixture:
    """Return a random mixture of a kind of `mixtures.KINDS`."""
    drawn = mixtures.draw(rng, mixtures.KINDS[kind], d)
    bases = np.broadcast_to(np.eye(d), (len(drawn.weights), d, d))
    if drawn.bases is not None:
        bases = drawn.bases
    covs = np.einsum("kij,kj,klj->kil", bases, drawn.variances, bases)
    return GaussianMixture(drawn.weights, drawn.means, covs)


def _images(rng: np.random.Generator, components: int) -> Gaussian | GaussianMixture:
    """Return smooth random images (64,), as one Gaussian or a mixture of several."""
    weights = rng.dirichlet(np.full(components, 4.0))
    lengths = rng.uniform(1.0, 2.5, components)
    covs = np.stack([_smooth_cov(length) for length in lengths])
    if components == 1:
        return Gaussian(0.3 * rng.standard_normal() * np.ones(SIDE**2), covs[0])
    patterns = np.linalg.cholesky(_smooth_cov(1.5)) @ rng.standard_normal((SIDE**2, components))
    means = patterns.T - weights @ patterns.T
    means = means * np.sqrt(0.5 / np.mean(weights @ means**2))  # half of the variance
    return GaussianMixture(weights, means, 0.5 * covs)


def _smooth_cov(length: float) -> np.ndarray:
    """Return the covariance of images of variance 1 that are smooth over `length` pixels."""
    distance = np.hypot(*_differences())
    return 0.98 * np.exp(-distance / length) + 0.02 * np.eye(SIDE**2)


def _differences() -> tuple[np.ndarray, np.ndarray]:
    """Return how many rows and columns lie between any two pixels, (64, 64) each."""
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    return rows[:, None] - rows, columns[:, None] - columns


def _row(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return one random direction (1, d)."""
    row = rng.standard_normal((1, d))
    return row / np.linalg.norm(row)


def _projection(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return the projection on half as many random directions, (d / 2, d)."""
    return np.linalg.qr(rng.standard_normal((d, d)))[0][: d // 2]


def _mask(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return the matrix (d / 2, d) that keeps half of the coordinates."""
    return np.eye(d)[np.sort(rng.permutation(d)[: d // 2])]


def _blur() -> np.ndarray:
    """Return the blur of images by a Gaussian of 1 pixel, as a matrix (64, 64) whose rows add up to
    1.
    """
    rows, columns = _differences()
    weights = np.exp(-0.5 * (rows**2 + columns**2))
    return weights / weights.sum(1, keepdims=True)
