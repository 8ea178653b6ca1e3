r"""Random Gaussian mixtures of any size, with exact estimates in NumPy.

They come in families of problems, one for choosing and one that is held out. A mixture is scaled to
standard deviation 1 and then to its size, so that what is hard is its shape: imbalanced weights,
modes far apart, spectra that fall as those of images do, directions in which the data are thin. The
end of the probability flow is found by DOP853 in the angle
:math:`\theta = \arctan(\sigma / \alpha)` and the state :math:`u = x / \sqrt{\alpha^2 + \sigma^2}`,
which is regular from pure noise to clean data,
:math:`du/d\theta = \cos\theta\,\hat\epsilon - \sin\theta\,\hat x_0`.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

DIMENSIONS = (2, 64, 4, 24, 8, 32, 3, 16, 6, 48, 12, 2)
SIZES = (1.0, 0.1, 10.0, 0.3, 3.0)


class Kind(NamedTuple):
    """What the mixtures of a kind have in common."""

    balance: float  # weight of each component over that of the one before; 1: Dirichlet weights
    between: float  # share of the variance that lies between the components
    decay: float  # variances fall as j^-decay
    thin: bool = False  # half of the directions have a fiftieth of the variance


KINDS = {
    "even": Kind(1.0, 0.4, 0.3),
    "imbalanced": Kind(0.4, 0.6, 0.5),
    "far apart": Kind(1.0, 0.97, 0.0),
    "spectrum": Kind(1.0, 0.5, 1.5),
    "far apart, imbalanced": Kind(0.4, 0.9, 0.3),
    "thin": Kind(1.0, 0.7, 0.3, thin=True),
}


class Mixture(NamedTuple):
    """A mixture whose components have covariances `bases` diag(`variances`) `bases`^T."""

    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    variances: np.ndarray  # (k, d)
    bases: np.ndarray | None  # (k, d, d); None: the axes themselves

    def scaled(self, size: float) -> "Mixture":
        """Return the mixture of `size` times the data."""
        return self._replace(means=size * self.means, variances=size**2 * self.variances)

    def sd(self) -> float:
        """Return the standard deviation over all coordinates."""
        within = np.mean(self.weights @ self.variances)  # a rotation keeps the trace
        centred = self.means - self.weights @ self.means
        return float(np.sqrt(within + np.mean(self.weights @ centred**2)))

    def estimate(self, x: np.ndarray, alpha: float, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the expected clean data and noise in `x` (batch, d)."""
        variances = alpha**2 * self.variances + sigma**2
        if self.bases is None:
            return self._along_axes(x, alpha, sigma, variances)
        delta = x[None] - alpha * self.means[:, None]
        turned = np.matmul(delta, self.bases)  # (k, batch, d)
        scaled = turned / variances[:, None]
        distance = np.sum(turned * scaled, -1) + np.sum(np.log(variances), -1)[:, None]
        posterior = _posterior(self.weights, distance.T).T[..., None]
        back = np.swapaxes(self.bases, 1, 2)
        noise = sigma * np.sum(np.matmul(posterior * scaled, back), 0)
        pulled = np.matmul(posterior * scaled * alpha * self.variances[:, None], back)
        return np.sum(posterior * self.means[:, None] + pulled, 0), noise

    def _along_axes(self, x, alpha, sigma, variances):
        """Return what `estimate` does, for components whose axes are those of the space."""
        precision = 1 / variances
        linear = alpha * self.means * precision
        constant = np.sum(alpha * self.means * linear + np.log(variances), -1)
        distance = x**2 @ precision.T - 2 * x @ linear.T + constant
        posterior = _posterior(self.weights, distance)
        noise = sigma * (x * (posterior @ precision) - posterior @ linear)
        clean = x * (posterior @ (alpha * self.variances * precision))
        return clean + posterior @ (sigma**2 * self.means * precision), noise


def _posterior(weights: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the probability of each component (batch, k).

    `distance` is minus twice the logs of the components' densities.
    """
    logits = np.log(weights) - 0.5 * distance
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def family(seed: int, count: int = 12) -> dict[str, Mixture]:
    """Return `count` mixtures of size 1, of every kind in turn, in 2 to 64 dimensions."""
    rng = np.random.default_rng(seed)
    mixtures = {}
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        d = DIMENSIONS[number % len(DIMENSIONS)]
        mixtures[f"{number}: {kind}, d = {d}"] = draw(rng, KINDS[kind], d)
    return mixtures


def draw(rng: np.random.Generator, kind: Kind, d: int) -> Mixture:
    """Return a random mixture of a kind in `d` dimensions.

    Its standard deviation is 1, and its mean lies some 0.3 away from 0.
    """
    k = int(rng.integers(3, 9))
    weights = kind.balance ** np.arange(k)
    if kind.balance == 1:
        weights = rng.dirichlet(np.full(k, 4.0))
    weights = weights / weights.sum()
    spectrum = (1.0 + np.arange(d)) ** -kind.decay
    means = rng.standard_normal((k, d)) * np.sqrt(spectrum)
    variances = spectrum * np.exp(0.7 * rng.standard_normal((k, 1)))
    variances = variances * np.exp(0.3 * rng.standard_normal((k, d)))
    if kind.thin:
        variances[:, rng.permutation(d)[: max(1, d // 2)]] /= 50
    means = means - weights @ means
    means = means * np.sqrt(kind.between / np.mean(weights @ means**2))
    variances = variances * (1 - kind.between) / np.mean(weights @ variances)
    bases = None
    if d <= 8:
        bases = np.stack([np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(k)])
    means = means + 0.3 * rng.standard_normal(d)
    return Mixture(weights=weights, means=means, variances=variances, bases=bases)


def flow_end(mixture: Mixture, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """Return where the probability flow takes `x` (batch, d) from a marginal (alpha, sigma) to.

    The end is clean data, at sigma = 0.
    """
    first = np.arctan2(sigma, alpha)

    def rate(passed, u):
        theta = first - passed
        clean, noise = mixture.estimate(u.reshape(x.shape), np.cos(theta), np.sin(theta))
        return (np.sin(theta) * clean - np.cos(theta) * noise).ravel()

    start = (x / np.hypot(alpha, sigma)).ravel()
    size = mixture.sd()
    solution = solve_ivp(
        rate, (0, first), start, method="DOP853", rtol=1e-9, atol=1e-9 * min(size, 1.0)
    )
    return solution.y[:, -1].reshape(x.shape)
