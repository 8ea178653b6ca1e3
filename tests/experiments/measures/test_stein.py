"""The discrepancy of noised samples: what it is a sum of, and that it sees shares of modes."""

import numpy as np
import pytest

from experiments.measures.stein import noised_score_ksd, score_ksd

CENTRES = np.array([-4.0, 4.0])
WIDTH = 0.3


def score(x, level):
    """Return the score of two equal modes with noise added, (n, 1)."""
    variance = WIDTH**2 + level**2
    log_odds = -0.5 * (x - CENTRES) ** 2 / variance  # (n, 2)
    odds = np.exp(log_odds - log_odds.max(1, keepdims=True))
    mean = (odds @ CENTRES / odds.sum(1))[:, None]
    return (mean - x) / variance


def draw(share, n=800, seed=0):
    """Draw from the two modes, of which the second has this share."""
    rng = np.random.default_rng(seed)
    second = rng.random(n) < share
    return (CENTRES[second.astype(int)] + WIDTH * rng.standard_normal(n))[:, None]


def test_noise_shows_the_shares_of_modes_to_which_the_clean_score_is_blind():
    # Fixed seeds: a false alarm is impossible once it has passed. The errors are upper bounds.
    for share, seen in ((0.5, False), (0.2, True)):
        clean = score_ksd(draw(share), lambda x: score(x, 0.0))
        noised = noised_score_ksd(draw(share), score)
        assert abs(clean.u_statistic) < 4 * clean.std_error
        assert (noised.u_statistic > 5 * noised.std_error) == seen
        assert seen or abs(noised.u_statistic) < 3 * noised.std_error


def test_it_is_the_weighted_sum_over_levels():
    x = draw(0.3, 60)
    rng = np.random.default_rng(5)
    parts = []
    for level in (0.5, 2.0):
        noised = x + level * rng.standard_normal(x.shape)
        parts.append(level**4 * np.array(score_ksd(noised, lambda z, s=level: score(z, s))))
    got = noised_score_ksd(x, score, levels=(0.5, 2.0), seed=5)
    np.testing.assert_allclose(got, parts[0] + parts[1], rtol=1e-12)


def test_it_is_in_squared_units_of_the_data():
    x = draw(0.3, 200)
    got = noised_score_ksd(x, score, levels=(0.5, 2.0))
    scaled = noised_score_ksd(10 * x, lambda z, s: score(z / 10, s / 10) / 10, levels=(5.0, 20.0))
    np.testing.assert_allclose(scaled, 100 * np.array(got), rtol=1e-9)


@pytest.mark.parametrize("levels", [(), (0.0, 1.0), (-1.0,)])
def test_levels_without_noise_are_refused(levels):
    with pytest.raises(ValueError, match="need noise levels above 0"):
        noised_score_ksd(draw(0.5, 10), score, levels=levels)
