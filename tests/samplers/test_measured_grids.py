"""Grids measured on a denoiser: the cheapest path is the cheapest of all, and few steps on it go further."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, draw_prior, grids, measured, probability_flow, sample
from samplers.measured_grids import RULES, _cheapest
from sde_lib import VP, GaussianMixture

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


def test_every_rule_makes_a_grid_and_the_best_of_them_beats_uniform_log_snr():
    ends = probability_flow(DENOISE, SDE, X, rtol=1e-6, atol=1e-6, denoise_last=False).x

    def error(ts):
        walked = sample(KEY, DDIM(), DENOISE, SDE, ts, X, denoise_last=False).x
        return float(jnp.median(jnp.abs(walked - ends).max(1)))

    made = {rule: measured(DENOISE, SDE, X, 6, rule, candidates=40) for rule in RULES}
    for ts in made.values():
        assert ts.shape == (7,) and ts[0] == 1 and ts[-1] == 1e-3 and np.all(np.diff(ts) < 0)
    errors = {rule: error(ts) for rule, ts in made.items()}
    assert min(errors.values()) < 0.8 * error(grids.log_snr(SDE, 6)), errors


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="unknown rule 'ays'"):
        measured(DENOISE, SDE, X, 5, "ays")
    with pytest.raises(ValueError, match="need 1 to 10 steps"):
        measured(DENOISE, SDE, X, 11, candidates=10)
