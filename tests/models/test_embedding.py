"""Noise levels that differ have embeddings that differ."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.embedding import SINUSOIDS, Conditioning, sigma_of, waves, with_no_label


def test_positional_is_the_published_embedding():
    """[sin, cos] of t 10000^(-k / (half - 1)): Song et al. 2021 (arXiv:2011.13456)."""
    t = np.array([0.0, 1.0, 999.0])
    angle = t[:, None] * 10000 ** (-np.arange(8) / 7)
    want = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    omega = SINUSOIDS["positional"](8).astype(np.float32)
    np.testing.assert_allclose(
        waves(jnp.asarray(t, jnp.float32), omega), want, rtol=1e-4, atol=1e-4
    )


def test_the_open_embedding_leaves_the_end_out():
    """t 10000^(-k / half), but for the order of sines and cosines: arXiv:2105.05233."""
    want = 10000 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(SINUSOIDS["positional_open"](8), want, rtol=1e-12)


def test_waves_of_log_noise_reach_from_one_e_fold_of_sigma_to_the_whole_range():
    """The noise input is c = log(sigma) / 4.

    The first period is one e-fold. A quarter of the last one is the range of 4, so that no two
    levels coincide.
    """
    period = 2 * np.pi / SINUSOIDS["log_noise"](16)
    np.testing.assert_allclose(period[[0, -1]], [1 / 4, 4 * 4], rtol=1e-6)


def test_random_frequencies_have_their_scale_and_are_not_trained():
    """Of 4096 normal numbers the standard deviation is off by 7 % but once in 1e9 times."""
    net = Conditioning(
        4096,
        2,
        embedding="fourier",
        num_classes=0,
        fourier_scale=3.0,
        kernel_init=nnx.initializers.ones,
        rngs=nnx.Rngs(0),
    )
    assert np.std(np.asarray(net.frequencies[...])) == pytest.approx(3, rel=0.07)
    slope = nnx.grad(lambda net: net(jnp.array([0.5, 2.0]), None).sum())(net)
    assert not np.any(slope.frequencies[...]) and np.all(slope.dense1.bias[...] != 0)


@pytest.mark.parametrize(
    "name, levels, fine",
    [("log_noise", np.linspace(-2.5, 1.5, 161), 0.025), ("positional", np.arange(1000.0), 1.0)],
)
def test_neighbours_differ_a_little_and_no_two_levels_coincide(name, levels, fine):
    """The distance of embeddings is clear between neighbours, and never small beyond them.

    The distance is the root mean square. Neighbours are a tenth of an e-fold of sigma apart, or one
    index.
    """
    omega = SINUSOIDS[name](16).astype(np.float32)
    e = np.asarray(waves(jnp.asarray(levels, jnp.float32), omega))
    distance = np.sqrt(((e[:, None] - e[None]) ** 2).mean(-1))
    apart = np.abs(levels[:, None] - levels[None])
    assert np.all(distance[np.isclose(apart, fine)] > 0.05)
    assert np.all(distance[np.isclose(apart, fine)] < 0.5)  # smooth: neighbours help one another
    assert np.all(distance[apart > 10 * fine] > 0.2)


def test_a_missing_row_for_no_label_becomes_the_mean_of_the_labels_and_one_that_is_there_stays():
    rows = np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.nan]], np.float32)
    params = {
        "conditioning": {
            "label": {"embedding": jnp.asarray(rows)},
            "other": {"embedding": jnp.asarray(rows)},
        }
    }
    got = with_no_label(params)["conditioning"]
    np.testing.assert_array_equal(got["label"]["embedding"], [[1, 2], [3, 6], [2, 4]])
    np.testing.assert_array_equal(got["other"]["embedding"], rows)
    there = {"label": {"embedding": jnp.asarray(rows[:2])}}
    np.testing.assert_array_equal(with_no_label(there)["label"]["embedding"], rows[:2])


def test_an_index_stands_for_the_sigma_of_its_whole_part():
    """Of a geometric sequence from 50 to 0.5 of three numbers.

    Without a sequence a noise input is its own sigma.
    """
    sigma = sigma_of(jnp.array([0.0, 1.0, 1.7, 2.0]), (50, 0.5, 3))
    np.testing.assert_allclose(sigma, [50, 5, 5, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(sigma_of(jnp.array([0.3, 7.0]), None), np.float32([0.3, 7.0]))
