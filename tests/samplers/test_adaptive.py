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


def features(x):
    """Return what the law is judged by, (n, 12): coordinates, their products, and both on the left component's side."""
    x = np.asarray(x, np.float64)
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), 4)
    means = np.asarray(DATA.means)[:, None]
    left = np.argmin(np.sum((x[None] - means) ** 2, 2), 0)[:, None] == 0
    return np.concatenate([x, products[:, [0, 1, 3]], left, left * x, left * products], axis=1)


def test_it_ends_in_the_law_of_the_data(drawn):
    # 2048 draws beside 200,000 exact ones: the mean of each of 12 features within 4.5 standard errors, and 3e-4 for the last denoising;
    # false-alarm probability 8e-5 for all of them.
    result, exact = features(drawn.x), features(DATA.sample(jax.random.key(5), 200_000))
    bar = 4.5 * exact.std(0) * np.sqrt(1 / len(result) + 1 / len(exact)) + 3e-4
    error = result.mean(0) - exact.mean(0)
    assert np.all(np.abs(error) < bar), error / bar


def test_the_slowest_sample_takes_some_hundred_evaluations(drawn):
    # An odd number: two a step and one to denoise. 150 steps here at most; a step of a tenth of a unit would take 150 for all.
    assert int(drawn.nfe) % 2 == 1 and 41 <= int(drawn.nfe) <= 351 and drawn.path is None


def test_a_sample_belongs_to_its_index():
    # In another order, by the same program.
    def draw(index):
        start = draw_prior(KEY, SDE, (128, 2), index)
        return np.asarray(reverse_sde(KEY, DATA.denoiser(SDE), SDE, start, index=index).x)

    index = jnp.arange(128)
    moved = draw((index + 7) % 128)
    np.testing.assert_allclose(moved, np.roll(draw(index), -7, 0), atol=2e-3)


def test_times_that_do_not_fall_are_refused():
    with pytest.raises(
        ValueError,
        match="runs from start down to end, both between t_min = 1e-05 and 1, got 0.1 and 0.5",
    ):
        reverse_sde(KEY, DATA.denoiser(SDE), SDE, jnp.ones((1, 2)), start=0.1, end=0.5)
