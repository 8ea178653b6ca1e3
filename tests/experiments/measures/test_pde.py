"""The numerical Fokker-Planck equation against closed forms, and what it says of sound and damaged
scores.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.measures.pde import CELLS, blurred, evolve, score_error
from sde_lib import VE, VP, Empirical, Estimate

GRID = -6 + 12 / CELLS * (np.arange(CELLS) + 0.5)


@pytest.mark.parametrize("d", [1, 2])
def test_evolution_is_the_convolution_with_a_normal_and_loses_nothing(d):
    points = np.array([[-0.7, 0.4], [0.9, -0.3], [1.0, 0.2]])[:, :d]
    start, expected = (blurred(points, GRID, level) for level in (0.3, 0.8))
    density = evolve(start, 12 / CELLS, 0.8**2 - 0.3**2)
    np.testing.assert_allclose(density, expected, atol=1e-3 * expected.max())
    np.testing.assert_allclose(density.sum() * (12 / CELLS) ** d, 1, rtol=1e-9)
    walled = evolve(start, 12 / CELLS, 400.0)  # what reaches the walls stays inside
    np.testing.assert_allclose(walled.sum() * (12 / CELLS) ** d, 1, rtol=1e-9)
    kernel = (
        stats.norm(points[0, 0], 0.3).pdf(GRID)
        if d == 1
        else np.outer(*(stats.norm(m, 0.3).pdf(GRID) for m in points[0]))
    )
    np.testing.assert_allclose(blurred(points[:1], GRID, 0.3), kernel, rtol=1e-9)


@pytest.mark.parametrize(("sde", "d"), [(VP(), 1), (VE(), 2)], ids=["1d", "2d"])
def test_the_score_of_the_data_passes_and_another_does_not(sde, d):
    points = np.random.default_rng(0).normal(size=(60, d)) * 0.5 + 0.2
    exact = Empirical(points).denoiser(sde)

    def late(x, t, cond=None):  # told another time
        return Estimate(x, exact(x, jnp.minimum(1.6 * t, 1.0)).noise)

    t = np.array([1e-3, *np.asarray(sde.time(-2 * jnp.log(jnp.array([0.15, 0.3, 0.7])))), 0.99])
    sound, damaged = (score_error(denoise, sde, points, t) for denoise in (exact, late))
    assert np.isnan(sound[[0, -1]]).all() and np.all(sound[1:-1] < 2e-3), sound
    assert np.all(damaged[1:-1] > 10 * sound[1:-1]), (sound, damaged)
