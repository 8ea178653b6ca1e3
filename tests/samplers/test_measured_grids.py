"""Grids measured on a denoiser: the cheapest path is the cheapest of all, and each cost is what its rule says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, draw_prior, grids, measured_grid, sample
from samplers.data_size import start_time
from samplers.measured_grids import RULES, Measured, _bound_cost, _cheapest, _step_cost
from sde_lib import VP, GaussianMixture, Rectified, in_float64

KEY, SDE = jax.random.key(0), VP()
DATA = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.01, 0.0], [0.0, 0.002]], [[0.005, 0.0], [0.0, 0.006]]],
)
DENOISE, X = DATA.denoiser(SDE), draw_prior(jax.random.key(1), SDE, (32, 2))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_cheapest_path_is_the_cheapest_of_all_paths(steps):
    cost = np.random.default_rng(steps).uniform(size=(8, 8))
    paths = [[0, *middle, 7] for middle in itertools.combinations(range(1, 7), steps - 1)]
    totals = [sum(cost[i, j] for i, j in itertools.pairwise(path)) for path in paths]
    assert _cheapest(cost, steps) == paths[int(np.argmin(totals))]


def test_the_cost_of_a_step_is_the_error_of_a_step_of_ddim():
    ts = grids.log_snr(SDE, 3)
    alpha, sigma = in_float64(SDE.marginal, ts)
    state = np.random.default_rng(0).normal(size=(4, 5, 2)) * 2.0
    x0 = np.stack([DENOISE(jnp.asarray(alpha[i] * state[i]), ts[i]).x0 for i in range(4)])
    cost = _step_cost(Measured(levels=sigma / alpha, x0=x0, y=state))
    for i, j in ((0, 1), (0, 3), (1, 2)):
        start = jnp.asarray(alpha[i] * state[i], jnp.float32)
        landed = sample(KEY, DDIM(), DENOISE, SDE, ts[[i, j]], start, denoise_last=False).x
        expected = np.mean(np.sqrt(np.mean((landed / alpha[j] - state[j]) ** 2, -1)))
        np.testing.assert_allclose(cost[i, j], expected, rtol=1e-4)


def test_the_bound_is_its_integral_in_closed_form():
    """Where the estimate is a s^2 e, the integrand is a^2 (s^2 - s_i^2)^2 / s^3 and its integral elementary."""
    levels = np.geomspace(5.0, 0.1, 1000)
    x0 = 0.3 * levels[:, None, None] ** 2 * np.ones((1, 6, 2))
    cost = _bound_cost(Measured(levels=levels, x0=x0, y=x0))
    for i, j in ((0, 999), (250, 750), (0, 25)):
        first, last = levels[i], levels[j]
        square = (first**2 - last**2) / 2
        log = np.log(first / last)
        inverse = (last**-2 - first**-2) / 2
        expected = 0.3**2 * (square - 2 * first**2 * log + first**4 * inverse)
        np.testing.assert_allclose(cost[i, j], expected, rtol=5e-3)


def test_equal_speed_means_equal_lengths_of_path():
    levels = np.geomspace(10.0, 0.01, 200)
    x0 = np.cumsum(np.linspace(0, 1, 200) ** 2)[:, None, None] * np.array([[[3.0, 4.0]]])
    chosen = RULES["speed"](Measured(levels=levels, x0=x0, y=x0), 5)
    passed = np.interp(-chosen, -np.log(levels), x0[:, 0, 0])
    np.testing.assert_allclose(np.diff(passed), (x0[-1] - x0[0])[0, 0] / 5, rtol=1e-6)


def test_every_rule_makes_a_grid_for_what_it_says_and_its_levels_are_those_it_chose():
    counted = []

    def denoise(x, t, cond):
        counted.append(cond)
        return DENOISE(x, t)

    cond = jnp.arange(8.0)
    for rule in RULES:
        ts = measured_grid(denoise, SDE, X[:8], 6, rule, candidates=40, cond=cond)
        assert ts.shape == (7,) and ts[0] == 1 and ts[-1] == 1e-3 and np.all(np.diff(ts) < 0)
    assert all(c is not None for c in counted)  # the condition reaches every call
    candidates = grids.log_snr(SDE, 40)  # of which a cheapest path consists
    assert np.abs(ts[:, None] - candidates[None]).min(1).max() < 1e-4


def test_it_starts_below_one_where_no_signal_is_left_and_takes_whole_numbers():
    sde = Rectified()
    ts = measured_grid(DATA.denoiser(sde), sde, jnp.asarray([[1, -2], [0, 1]]), 3, candidates=10)
    assert ts[0] == start_time(sde, 0.5) < 1 and np.all(np.diff(ts) < 0)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="unknown rule 'ays'"):
        measured_grid(DENOISE, SDE, X, 5, "ays")
    with pytest.raises(ValueError, match="need 1 to 10 steps"):
        measured_grid(DENOISE, SDE, X, 11, candidates=10)
    with pytest.raises(ValueError, match="need steps as a whole number from 1"):
        measured_grid(DENOISE, SDE, X, 2.5)
    with pytest.raises(ValueError, match="need candidates as a whole number from 1"):
        measured_grid(DENOISE, SDE, X, 2, candidates=0)
    with pytest.raises(ValueError, match="is not finite; measure on noises"):
        measured_grid(lambda x, t, cond: DENOISE(x / 0, t), SDE, X[:8], 6, candidates=40)
