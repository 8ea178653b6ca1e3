"""Time grids: their ends and number of points, and that the quantity they are named for is equally spaced."""

import inspect

import numpy as np
import pytest
from scipy import stats

from samplers import grids
from sde_lib import in_float64

GRIDS = [
    f
    for n, f in inspect.getmembers(grids, inspect.isfunction)
    if f.__module__ == grids.__name__ and not n.startswith("_")
]


def level(sde, ts):
    """Return sigma / alpha."""
    alpha, sigma = in_float64(sde.marginal, ts)
    return sigma / alpha


def bumped(lam):
    """Return the integral of 1 + 2.5 exp(-(lambda - 2.3)^2 / 2 / 1.4^2)."""
    return lam + 2.5 * 1.4 * np.sqrt(2 * np.pi) * stats.norm(2.3, 1.4).cdf(lam)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("n", "start", "end"), [(1, 1.0, 1e-3), (18, 1.0, 1e-5), (1000, 1.0, 1e-3), (7, 0.6, 0.2)]
)
def test_a_grid_has_n_steps_falls_and_ends_where_it_should(grid, sde, n, start, end):
    ts = grid(sde, n, start=start, end=end)
    assert type(ts) is np.ndarray and ts.dtype == np.float64 and ts.shape == (n + 1,)
    np.testing.assert_allclose(ts[[0, -1]], [start, end], rtol=1e-14)
    assert np.all(np.diff(ts) < 0)


@pytest.mark.parametrize(
    ("grid", "even"),
    [
        (grids.uniform, lambda sde, ts: ts),
        (grids.quadratic, lambda sde, ts: np.sqrt(ts)),
        (grids.log_snr, lambda sde, ts: np.log(level(sde, ts))),
        (grids.karras, lambda sde, ts: level(sde, ts) ** (1 / 7)),
        (grids.centred, lambda sde, ts: bumped(-np.log(level(sde, ts)))),
        (
            lambda *args, **ends: grids.karras(*args, **ends, rho=3.0),
            lambda sde, ts: level(sde, ts) ** (1 / 3),
        ),
    ],
    ids=["uniform", "quadratic", "log_snr", "karras", "centred", "karras_rho_3"],
)
def test_steps_are_equal_in_what_the_grid_is_named_for(grid, even, sde):
    gaps = np.diff(even(sde, grid(sde, 20, start=0.9, end=1e-3)))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-7)


def test_karras_gives_the_published_noise_levels(sde):
    # Karras et al. 2022, eq. 5, with the levels that the SDE has at the two ends.
    low, high = level(sde, np.array([1e-3, 1.0]))
    i, n = np.arange(18), 18
    published = (high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(level(sde, grids.karras(sde, n - 1)), published, rtol=1e-9)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("n", "start", "end"),
    [(0, 1.0, 1e-3), (5, 1e-3, 1.0), (5, 0.5, 0.5), (5, 1.5, 0.1), (5, 1.0, -0.1)],
)
def test_impossible_grids_are_refused(grid, sde, n, start, end):
    with pytest.raises(
        ValueError,
        match=f"need at least one step and 0 <= end < start <= 1, got n = {n}, start = {start}, end = {end}",
    ):
        grid(sde, n, start=start, end=end)
