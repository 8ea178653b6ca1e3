"""Time grids: their ends and number of points, and that the quantity they are named for is equally spaced."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import grids
from sde_lib import EDM, SDE, VP, Cosine, Rectified, in_float64

GRIDS = [
    f
    for n, f in inspect.getmembers(grids, inspect.isfunction)
    if list(inspect.signature(f).parameters)[:2] == ["sde", "n"] and not n.startswith("_")
]


class Circle(SDE):
    """A user's process, whose alpha(1) is a rounding error, of either sign."""

    def marginal(self, t):
        return jnp.cos(jnp.pi / 2 * t), jnp.sin(jnp.pi / 2 * t)


class Overshot(SDE):
    """A user's process that goes a little further."""

    def marginal(self, t):
        return jnp.cos(jnp.pi / 2 * t) - 1e-6 * t, jnp.sin(jnp.pi / 2 * t)


def level(sde, ts):
    """Return sigma / alpha."""
    alpha, sigma = in_float64(sde.marginal, ts)
    return sigma / alpha


def dense(lam, weight=1.0, centre=0.5, width=2.5, reach=30.0):
    """Return the integral of 1 / (1 + e^-lambda / reach) + weight / cosh^2((lambda - centre) / width)."""
    return np.log1p(reach * np.exp(lam)) + weight * width * np.tanh((lam - centre) / width)


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
        (
            lambda *args, **ends: grids.centred(*args, **ends, warm_up=0.0),
            lambda sde, ts: dense(-np.log(level(sde, ts))),
        ),
        (
            lambda *args, **ends: grids.centred(
                *args, **ends, weight=2.0, centre=-0.3, width=1.0, reach=7.0, warm_up=0.0, sd=0.2
            ),
            lambda sde, ts: dense(np.log(0.2 / level(sde, ts)), 2.0, -0.3, 1.0, 7.0),
        ),
        (
            lambda *args, **ends: grids.karras(*args, **ends, rho=3.0),
            lambda sde, ts: level(sde, ts) ** (1 / 3),
        ),
    ],
    ids=[
        "uniform",
        "quadratic",
        "log_snr",
        "karras",
        "centred",
        "centred_settings",
        "karras_rho_3",
    ],
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


def test_the_first_steps_of_a_centred_grid_are_shorter(sde):
    gaps = np.diff(dense(-np.log(level(sde, grids.centred(sde, 20, start=0.9, warm_up=3.0)))))
    shorter = 1 / (1 + 3 * np.exp(-np.arange(20)))
    np.testing.assert_allclose(gaps / gaps[-1], shorter, rtol=1e-6)


@pytest.mark.parametrize("sd", [0.1, 10.0])
def test_data_of_any_size_get_the_grid_of_data_of_size_one(sd):
    """What starts and ends `sd` times as far away has `sd` times the levels; without signal, the start is the one of every walk."""
    for grid in (grids.log_snr, grids.karras, grids.centred):
        unit = level(EDM(sigma_max=80.0), grid(EDM(sigma_max=80.0), 9))
        sized = EDM(sigma_max=80.0 * sd)
        np.testing.assert_allclose(level(sized, grid(sized, 9, sd=sd)), sd * unit, rtol=1e-9)
    np.testing.assert_allclose(
        level(Rectified(), grids.log_snr(Rectified(), 9, sd=sd)[0]), 200 * max(sd, 1)
    )


@pytest.mark.parametrize("grid", GRIDS, ids=lambda f: f.__name__)
def test_every_grid_falls_at_its_defaults_on_every_process(grid, any_sde):
    check(grid, any_sde)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sde", [Circle(), Overshot()], ids=lambda s: type(s).__name__)
def test_every_grid_falls_where_a_users_process_ends_without_signal(grid, sde):
    check(grid, sde)


def check(grid, sde):
    ts = grid(sde, 5)
    assert ts.shape == (6,) and np.all(np.diff(ts) < 0) and 0.98 < ts[0] <= 1 and ts[-1] == 1e-3
    at_level_200 = ts[0] < 1
    assert not at_level_200 or in_float64(sde.marginal, 1.0)[0] < 1e-3
    if at_level_200:
        np.testing.assert_allclose(level(sde, ts[0]), 200, rtol=1e-6)


def test_a_start_without_signal_is_refused_where_it_is_asked_for():
    for grid in (grids.log_snr, grids.karras):
        with pytest.raises(ValueError, match="log-SNR of Cosine is -inf at start = 1.0.*below 1"):
            grid(Cosine(), 5, start=1.0)
    with pytest.raises(ValueError, match="inf at end = 0.0"):
        grids.log_snr(VP(), 5, end=0.0)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda f: f.__name__)
def test_a_grid_can_be_made_inside_transformations(grid):
    expected = grid(VP(), 5)
    result = jax.vmap(lambda k: jnp.asarray(grid(VP(), 5)) * k)(jnp.arange(3.0))
    np.testing.assert_allclose(result[2], 2 * expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: jnp.asarray(grid(VP(), 5)))(), expected, rtol=1e-6)


@pytest.mark.parametrize("grid", [grids.log_snr, grids.karras, grids.centred])
def test_a_grid_of_a_learned_process_passes_gradients(grid):
    def middle(beta_max, sd):
        return grid(VP(beta_max=beta_max), 3, sd=sd)[1]

    result = jax.grad(middle, (0, 1))(20.0, 0.7)
    rate = (middle(20.01, 0.7) - middle(19.99, 0.7)) / 0.02
    np.testing.assert_allclose(result[0], rate, rtol=1e-3)
    rate = (middle(20.0, 0.701) - middle(20.0, 0.699)) / 0.002
    np.testing.assert_allclose(result[1], rate, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda f: f.__name__)
def test_what_is_no_number_of_steps_or_no_time_is_refused(grid):
    for n in (2.5, np.nan, None, "5", True, 10**12, [3]):
        with pytest.raises(ValueError, match="need n as a whole number from 1 to 1,000,000"):
            grid(VP(), n)
    for ends in ({"start": np.nan}, {"end": np.nan}, {"start": "1"}, {"end": [0.1]}):
        with pytest.raises(ValueError, match="got"):
            grid(VP(), 5, **ends)


@pytest.mark.parametrize(
    ("grid", "setting"),
    [
        (grids.karras, {"rho": 0.0}),
        (grids.centred, {"width": 0.0}),
        (grids.centred, {"reach": np.nan}),
        (grids.centred, {"weight": -1.0}),
        (grids.centred, {"warm_up": "much"}),
    ],
)
def test_impossible_settings_are_refused(grid, setting):
    with pytest.raises(ValueError, match=f"need one number {next(iter(setting))} >"):
        grid(VP(), 5, **setting)


@pytest.mark.parametrize("grid", [grids.log_snr, grids.karras, grids.centred])
@pytest.mark.parametrize("sd", [0.0, -1.0, np.nan, np.ones(2)])
def test_impossible_sizes_are_refused(grid, sd):
    with pytest.raises(ValueError, match="need one sd > 0"):
        grid(VP(), 5, sd=sd)
