"""The reverse SDE with adaptive steps: the law it ends in, what it costs, and whom a sample belongs to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import draw_prior, reverse_sde
from sde_lib import VP, GaussianMixture

SDE, KEY, N = VP(), jax.random.key(0), 2048
DATA = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.04, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]],
)


@pytest.fixture(scope="module")
def drawn():
    return reverse_sde(
        KEY, DATA.denoiser(SDE), SDE, draw_prior(KEY, SDE, (N, 2)), index=jnp.arange(N)
    )


def test_it_ends_in_the_law_of_the_data(drawn):
    # 2048 draws: 5 standard errors of the mean are 0.07 at a standard deviation of 0.64, of the share of a component 0.05.
    mean, cov = DATA.data_moments()
    x = np.asarray(drawn.x, np.float64)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.07)
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.06)
    left = np.sum(np.square(x - np.array([-0.8, 0.2])), 1) < np.sum(
        np.square(x - np.array([0.5, -0.1])), 1
    )
    assert abs(left.mean() - 0.3) < 0.06
    for part, component in ((left, 0), (~left, 1)):
        spread = (
            DATA.bases[component] @ np.diag(DATA.variances[component]) @ DATA.bases[component].T
        )
        np.testing.assert_allclose(np.cov(x[part].T), spread, atol=0.015)


def test_nfe_is_reported_and_bounded(drawn):
    assert 20 < int(drawn.nfe) < 400 and drawn.path is None


def test_a_sample_belongs_to_its_index(drawn):
    # In another order, by the same program.
    index = (jnp.arange(N) + 7) % N
    found = reverse_sde(
        KEY, DATA.denoiser(SDE), SDE, draw_prior(KEY, SDE, (N, 2), index), index=index
    ).x
    np.testing.assert_allclose(found, np.roll(np.asarray(drawn.x), -7, 0), atol=2e-3)


def test_times_that_do_not_fall_are_refused():
    with pytest.raises(
        ValueError,
        match="runs from start down to end, both between t_min = 1e-05 and 1, got 0.1 and 0.5",
    ):
        reverse_sde(KEY, DATA.denoiser(SDE), SDE, jnp.ones((1, 2)), start=0.1, end=0.5)
