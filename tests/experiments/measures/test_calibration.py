"""The measures of posterior samples against closed forms and double loops, on exact laws."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.measures.calibration import coverage, interval_coverage, rank_histogram, ranks
from experiments.measures.posterior_report import posterior_report
from experiments.measures.stein import SCALES, score_ksd
from experiments.measures.two_samples import c2st, sliced_w2, sliced_w2_over_floor


def conjugate(width=1.0, n=400, m=49, seed=0):
    """Return samples and truths of x ~ N(0, I), y = x + N(0, I), in three dimensions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    y = x + rng.standard_normal((n, 3))
    noise = rng.standard_normal((n, m, 3))
    return y[:, None] / 2 + width * np.sqrt(0.5) * noise, x


def test_coverage_of_scaled_gaussians_is_known():
    # Closed form at m -> infinity; at m = 999 within 1e-3 of it and 5 standard errors, 1e-6 each.
    for width in (1.0, 0.7):
        got = coverage(*conjugate(width, n=1000, m=999), levels=[0.5, 0.9])
        expected = 2 * stats.norm.cdf(width * stats.norm.ppf([0.75, 0.95])) - 1
        assert np.all(np.abs(got.value - expected) < 1e-3 + 5 * got.std_error)


def test_coverage_has_no_bias_with_few_samples():
    # Four samples; 10 000 problems, within 5 standard errors.
    got = coverage(*conjugate(n=10_000, m=4), levels=[0.3, 0.9])
    assert np.all(np.abs(got.value - [0.3, 0.9]) < 5 * got.std_error)


def test_copies_of_a_coordinate_do_not_sharpen_the_standard_error():
    samples, truths = conjugate()
    one = coverage(samples[..., :1], truths[:, :1])
    copies = coverage(np.repeat(samples[..., :1], 9, 2), np.repeat(truths[:, :1], 9, 1))
    np.testing.assert_allclose(copies.std_error, one.std_error)
    np.testing.assert_allclose(one.std_error[4], 0.5 / np.sqrt(400), rtol=0.05)


def test_mass_of_intervals_under_the_exact_posterior():
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((20_000, 2))
    got = interval_coverage(0.7 * rng.standard_normal((20_000, 2)), exact)
    expected = 2 * stats.norm.cdf(0.7 * stats.norm.ppf([0.75, 0.95])) - 1
    np.testing.assert_allclose(got.value, expected, atol=0.015)
    same = coverage(np.repeat(exact[None, :50], 30, 0), exact[100:130], levels=[0.5])
    np.testing.assert_allclose(
        interval_coverage(exact[:50], exact[100:130], [0.5]).value, same.value
    )


def test_ranks_are_uniform_for_the_posterior_at_the_stated_rate():
    # 100 repetitions at a false-alarm rate of 0.1 at most: more than 21 alarms once in 5000 runs.
    alarms = 0
    small = 0
    for seed in range(100):
        samples, truths = conjugate(n=200, m=19, seed=seed)
        got = rank_histogram(ranks(samples, truths), 19, bins=10, false_alarm=0.1)
        alarms += np.any((got.counts < got.low) | (got.counts > got.high))
        small += got.p_value < 0.1
    assert 1 <= alarms <= 21 and small <= 21


def test_the_band_shares_its_false_alarms_out_over_all_counts():
    # Binomial laws of 200 000 problems are nearly continuous: little of the rate is left unused.
    even = np.tile(np.arange(200_000)[:, None] % 20, (1, 3))
    got = rank_histogram(even, 19, bins=10, false_alarm=0.06)
    law = stats.binom(200_000, 0.1)
    alarms = 3 * np.sum(law.cdf(got.low - 1) + law.sf(got.high))
    assert 0.85 * 0.06 < alarms <= 0.06


def test_overconfident_and_shifted_samples_are_caught():
    for samples, truths in (conjugate(0.7), conjugate(1.4)):
        got = rank_histogram(ranks(samples, truths), 49)
        assert np.any((got.counts < got.low) | (got.counts > got.high)) and got.p_value < 1e-3
    samples, truths = conjugate()
    assert rank_histogram(ranks(samples + 0.4, truths), 49).p_value < 1e-3


def test_ranks_count_what_is_below_and_break_ties():
    samples = np.array([[[1.0], [2.0], [3.0]]] * 400)
    assert np.all(ranks(samples, np.full((400, 1), 2.5)) == 2)
    assert set(ranks(samples, np.full((400, 1), 2.0)).ravel()) == {1, 2}
    whole = rank_histogram(np.arange(400)[:, None] % 5, 4, bins=2)
    np.testing.assert_array_equal(whole.counts, [[160, 240]])
    np.testing.assert_allclose(whole.expected, [160, 240])


def test_sliced_w2_of_a_shift_and_a_scale():
    # A shift by v: |v . line| for every line. In one dimension, sizes 2 and 3 by hand.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 3))
    shift = np.array([1.0, -2.0, 0.5])
    lines = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    np.testing.assert_allclose(sliced_w2(x, x + shift, lines), np.sqrt(shift @ shift / 3))
    assert sliced_w2(x, rng.permutation(x)) == 0
    np.testing.assert_allclose(sliced_w2([[0.0], [1.0]], [[0.0], [1.0], [1.0]]), np.sqrt(1 / 6))
    many = sliced_w2(x, x + shift, 4000)
    np.testing.assert_allclose(many, np.sqrt(shift @ shift / 3), rtol=0.05)
    exact, again = rng.standard_normal((2, 500, 3))
    far = sliced_w2_over_floor(x + 1, exact, again)
    assert far.ratio > 3 and far.floor == sliced_w2(again, exact)


def test_a_classifier_tells_sets_apart():
    # Shifted unit normals: the best accuracy is Phi(shift / 2); 5 standard errors and a forest's loss.
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 400, 2))
    same = c2st(a, b)
    assert abs(same.value - 0.5) < 5 * same.std_error
    apart = c2st(a, b + [3.0, 0.0])
    assert abs(apart.value - stats.norm.cdf(1.5)) < 0.05
    assert apart.std_error == pytest.approx(np.sqrt(apart.value * (1 - apart.value) / 800))


@pytest.mark.parametrize("scale", list(SCALES))
def test_the_stein_discrepancy_is_the_double_loop(scale, monkeypatch):
    monkeypatch.setattr("experiments.measures.stein.BLOCK", 7)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3)) @ np.array([[1.0, 0.4, 0], [0, 0.5, 0.3], [0, 0, 2]]) + 1
    s = -np.sin(x)
    precision = SCALES[scale](x)
    kernel = np.zeros((20, 20))

    def k(a, b):
        return (1 + (a - b) @ precision @ (a - b)) ** -0.5

    e = 1e-4 * np.eye(3)
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            value = s[i] @ s[j] * k(a, b)
            for u in range(3):
                d_b = (k(a, b + e[u]) - k(a, b - e[u])) / 2e-4
                d_a = (k(a + e[u], b) - k(a - e[u], b)) / 2e-4
                both = k(a + e[u], b + e[u]) - k(a + e[u], b - e[u])
                both = both - k(a - e[u], b + e[u]) + k(a - e[u], b - e[u])
                value += s[i, u] * d_b + s[j, u] * d_a + both / 4e-8
            kernel[i, j] = value
    got = score_ksd(x, lambda x: -np.sin(x), scale)
    np.testing.assert_allclose(got.v_statistic, kernel.mean(), atol=1e-5)
    off = kernel[~np.eye(20, dtype=bool)]
    np.testing.assert_allclose(got.u_statistic, off.mean(), atol=1e-5)


def test_the_stein_discrepancy_of_the_posterior_is_zero_and_of_others_is_not():
    # 40 sets of 200: their mean within 5 standard errors, and the stated error is theirs.
    values = []
    errors = []
    for seed in range(40):
        x = np.random.default_rng(seed).standard_normal((200, 4))
        got = score_ksd(x, lambda x: -x)
        values.append(got.u_statistic)
        errors.append(got.std_error)
    assert abs(np.mean(values)) < 5 * np.std(values) / np.sqrt(40)
    np.testing.assert_allclose(np.mean(errors), np.std(values), rtol=0.5)
    for wrong in (0.7 * x, x + 0.5):
        got = score_ksd(wrong, lambda x: -x, "covariance")
        assert got.u_statistic > 5 * got.std_error


def test_the_stated_error_of_a_stein_discrepancy_holds_away_from_zero_too():
    # A spread over 300 sets is known to 4 %, so that 25 % are exceeded once in a million runs.
    got = [
        score_ksd(np.random.default_rng(seed).standard_normal((60, 2)) + 1.0, lambda x: -x)
        for seed in range(300)
    ]
    spread = np.std([one.u_statistic for one in got])
    np.testing.assert_allclose(np.mean([one.std_error for one in got]), spread, rtol=0.25)


def test_the_report_is_a_picture_and_strict_json():
    samples, truths = conjugate()
    report = posterior_report(samples, truths, exact=samples[0])
    numbers = json.loads(json.dumps(report.numbers, allow_nan=False))
    assert numbers["rank_counts_outside"] == 0 and numbers["problems"] == 400
    assert len(report.figure.axes) == 5
    assert posterior_report(*conjugate(0.5)).numbers["rank_counts_outside"] > 0


WRONG = {
    "two axes": (lambda: coverage(np.ones((3, 4)), np.ones((3, 4))), "samples.*3 axes"),
    "one problem": (lambda: coverage(np.ones((1, 4, 2)), np.ones((1, 2))), "two or more problems"),
    "nan": (lambda: coverage(np.full((2, 4, 2), np.nan), np.ones((2, 2))), "16 values"),
    "percent": (lambda: coverage(np.ones((2, 4, 2)), np.ones((2, 2)), [90.0]), "90 % is 0.9"),
    "rank": (lambda: rank_histogram(np.full((50, 1), 7), 4), "whole ranks from 0 to 4"),
    "bins": (lambda: rank_histogram(np.ones((9, 1)), 4, bins=5), "five problems for each"),
    "dimension": (lambda: sliced_w2(np.ones((3, 2)), np.ones((3, 1))), "same dimension"),
    "sizes": (lambda: c2st(np.ones((9, 2)), np.ones((8, 2))), "same size"),
    "scale": (lambda: score_ksd(np.eye(2), lambda x: x, "mean"), "covariance.*'mean'"),
    "score": (lambda: score_ksd(np.eye(2), lambda x: x[:1]), r"shape \(2, 2\).*got \(1, 2\)"),
    "flat": (lambda: score_ksd(np.eye(2), lambda x: x, "covariance"), "use the scale 'median'"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_bad_input_is_refused(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
