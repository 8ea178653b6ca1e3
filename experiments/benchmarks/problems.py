r"""Problems whose probability flow has a known end: the ground of the benchmarks of samplers.

Two Gaussian mixtures, in 2 and in 64 dimensions (tests/fixtures/README.md), from 512 given noises,
under VP (t = 1 to 1e-3) and under EDM's process (sigma = 80 to 0), their ends integrated to 6e-10;
and N(1, 0.25) under VP, VE and sub-VP, where the flow only shifts and scales,
:math:`y_s = 1 + (y_t - 1) \sqrt{0.25 + r_s^2} / \sqrt{0.25 + r_t^2}` with y = x / alpha and r =
sigma / alpha.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from samplers import grids
from sde_lib import EDM, SDE, VE, VP, GaussianMixture, SubVP, in_float64

PROBLEMS = Path(__file__).with_name("gmm_problem.npz")


class Problem(NamedTuple):
    """A start, and where the exact flow takes it."""

    data: GaussianMixture
    sde: SDE
    x: np.ndarray  # (512, d)
    y: np.ndarray  # (512, d), the end in x / alpha
    grids: dict[str, Callable]  # name -> (steps) -> times
    ends_clean: bool = False  # at sigma = 0


def problems(*only: str) -> dict[str, Problem]:
    """Return the problems of these titles, or all of them."""
    every = mixtures()
    for title, sde in (("VP", VP()), ("VE", VE()), ("sub-VP", SubVP())):
        every[f"gaussian {title}"] = gaussian(sde)
    return {title: every[title] for title in only or every}


def mixtures() -> dict[str, Problem]:
    """Return the mixtures in 2 and in 64 dimensions, under VP and under EDM's process."""
    every = {}
    with np.load(PROBLEMS) as file:
        for name in ("gmm2", "gmm64"):
            part = {
                key: file[f"{name}/{key}"]
                for key in ("weights", "means", "U", "sd", "z", "yref_vp_teps", "yref_edm_0")
            }
            covs = np.einsum("kij,kj,klj->kil", part["U"], part["sd"] ** 2, part["U"])
            data = GaussianMixture(part["weights"], part["means"], covs)
            every[f"{name} VP"] = Problem(
                data=data,
                sde=VP(),
                x=part["z"],
                y=part["yref_vp_teps"],
                grids=from_one(VP()),
            )
            every[f"{name} EDM"] = Problem(
                data=data,
                sde=EDM(t_min=0.0),
                x=80 * part["z"],
                y=part["yref_edm_0"],
                grids=to_zero(EDM(t_min=0.0)),
                ends_clean=True,
            )
    return every


def gaussian(sde: SDE) -> Problem:
    """Return N(1, 0.25) under a process, from 512 quantiles of its prior."""
    data = GaussianMixture([1.0], [[1.0]], [[[0.25]]])
    alpha, sigma = in_float64(sde.marginal, 1.0)
    alpha_end, sigma_end = in_float64(sde.marginal, 1e-3)
    x = np.hypot(alpha, sigma) * norm.ppf((np.arange(512)[:, None] + 0.5) / 512)
    shrinks = np.hypot(0.5, sigma_end / alpha_end) / np.hypot(0.5, sigma / alpha)
    y = 1 + (x / alpha - 1) * shrinks
    return Problem(data=data, sde=sde, x=x, y=y, grids=from_one(sde))


def from_one(sde: SDE) -> dict[str, Callable]:
    """Return the grids from t = 1 to 1e-3."""
    return {
        grid.__name__: partial(grid, sde)
        for grid in (grids.uniform, grids.quadratic, grids.log_snr, grids.centred, grids.karras)
    }


def to_zero(sde: SDE) -> dict[str, Callable]:
    """Return the grids from sigma = 80 to 0.002 in n - 1 steps, then to 0."""

    def ended(grid):
        return lambda n: np.append(grid(sde, n - 1, end=0.002 / 80), 0.0)

    return {grid.__name__: ended(grid) for grid in (grids.karras, grids.log_snr)}
