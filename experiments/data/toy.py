r"""Two-dimensional densities of roughly unit scale.

They are there to look at and, where the density is known, to measure likelihoods against:

- ``checkerboard``: uniform on the 8 black ones of 4 x 4 unit squares on :math:`[-2, 2]^2`;
  :math:`p = 1/8` there.
- ``mixture``: 8 equal Gaussians of sd 0.2 on a circle of radius 1.4; the component is the label.
- ``moons``: two interleaved half circles of radius 1 with noise of sd 0.1; the moon is the label.
- ``swiss_roll``: the spiral :math:`s (\cos 3\pi s, \sin 3\pi s) \cdot 2`, :math:`s \in [1/3, 1]`,
  with noise of sd 0.05.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from .base import DataSet, Source, check_split
from .settings import LARGEST_SEED, check_whole

MOST_POINTS = 10**8  # drawn at once, in memory

# Of the mixture.
RADIUS = 1.4
SD = 0.2
_ANGLES = 2 * np.pi * np.arange(8) / 8
MEANS = RADIUS * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], -1)


def _checkerboard(rng, n):
    column = rng.integers(0, 4, n)
    row = 2 * rng.integers(0, 2, n) + column % 2
    x = np.stack([column, row], -1) - 2 + rng.random((n, 2))
    return x, np.zeros(n, int)


def _checkerboard_log_prob(x):
    cell = np.floor(x).astype(int)
    black = (np.abs(x) < 2).all(-1) & (cell.sum(-1) % 2 == 0)
    return np.where(black, -np.log(8), -np.inf)


def _mixture(rng, n):
    label = rng.integers(0, len(MEANS), n)
    return MEANS[label] + SD * rng.standard_normal((n, 2)), label


def _mixture_log_prob(x):
    square = ((x[..., None, :] - MEANS) ** 2).sum(-1)
    normaliser = len(MEANS) * 2 * np.pi * SD**2
    return logsumexp(-square / (2 * SD**2), axis=-1) - np.log(normaliser)


def _moons(rng, n):
    label = rng.integers(0, 2, n)
    angle = np.pi * rng.random(n)
    arc = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], -1)
    moon = np.where(label[:, None] == 0, arc, -arc)
    return moon + 0.1 * rng.standard_normal((n, 2)), label


def _swiss_roll(rng, n):
    s = (1 + 2 * rng.random(n)) / 3
    angle = 3 * np.pi * s
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    spiral = 2 * s[:, None] * direction
    x = spiral + 0.05 * rng.standard_normal((n, 2))
    return x, np.zeros(n, int)


class _Density(NamedTuple):
    sample: Callable  # (rng, n) -> x (n, 2), label (n,)
    num_classes: int
    log_prob: Callable | None  # x (..., 2) -> (...)


DENSITIES = {
    "checkerboard": _Density(_checkerboard, 0, _checkerboard_log_prob),
    "mixture": _Density(_mixture, len(MEANS), _mixture_log_prob),
    "moons": _Density(_moons, 2, None),
    "swiss_roll": _Density(_swiss_roll, 0, None),
}


class Toy(DataSet):
    """Points in the plane drawn from one of `DENSITIES`, all independent.

    There are ``size`` to train, and a tenth of that to validate and to test.
    """

    shape = (2,)
    levels = None
    splits = ("train", "validation", "test")
    licence = "none needed"
    origin = "drawn from a formula of this package"

    def __init__(self, *, density: str, size: int = 20_000, seed: int = 0):
        if not isinstance(density, str) or density not in DENSITIES:
            raise ValueError(f"unknown density {density!r}; choose one of {', '.join(DENSITIES)}")
        self.density = density
        self.size = check_whole("size", size, 10, MOST_POINTS)
        self.seed = check_whole("seed", seed, 0, LARGEST_SEED)
        self.num_classes = DENSITIES[density].num_classes

    def source(self, split: str) -> Source:
        check_split(split, self.splits)
        rng = np.random.default_rng([self.seed, self.splits.index(split)])
        number = self.size if split == "train" else self.size // 10
        x, label = DENSITIES[self.density].sample(rng, number)
        x = x.astype(np.float32)
        return Source(len(x), lambda index: (x[index], label[index]))

    def log_prob(self, x) -> np.ndarray:
        """Return the exact log-density, in nats, of points (..., 2).

        Raise a ValueError for a density that has no closed form.
        """
        log_prob = DENSITIES[self.density].log_prob
        if log_prob is None:
            known = [name for name, density in DENSITIES.items() if density.log_prob is not None]
            raise ValueError(
                f"the density of {self.density!r} has no closed form; it is known for "
                f"{', '.join(known)}"
            )
        x = np.asarray(x, np.float64)
        if x.ndim < 1 or x.shape[-1] != 2:
            raise ValueError(f"points have shape (..., 2), got {x.shape}")
        finite = np.asarray(np.isfinite(x).all(-1))
        at_infinity = np.where(np.isnan(x).any(-1), np.nan, -np.inf)
        return np.where(finite, log_prob(np.where(finite[..., None], x, 0.0)), at_infinity)
