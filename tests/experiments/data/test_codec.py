"""Codecs: what they encode they decode, and what they do to likelihoods and moments."""

import math

import numpy as np
import pytest

from experiments.data import codec_of
from experiments.data.base import MOST_LEVELS
from experiments.data.codec import DEQUANTISATION_BITS, dequantised


def words_of(x, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**16, np.shape(x), np.uint16)


@pytest.mark.parametrize("levels", [2, 3, 17, 255, 256, 1000, MOST_LEVELS])
def test_decoding_undoes_encoding_for_every_level_and_every_extreme_of_the_noise(levels):
    codec = codec_of(levels)
    k = np.arange(levels, dtype=np.uint8 if levels <= 256 else np.int32)
    for word in (0, 1 << (16 - DEQUANTISATION_BITS), 2**15, 2**16 - 1):
        x = codec.encode(k, np.full(levels, word, np.uint16))
        assert x.dtype == np.float32 and x.min() >= -1 and x.max() < 1
        np.testing.assert_array_equal(codec.decode(x), k)


def test_grey_levels_fill_minus_one_to_one():
    codec = codec_of(17)
    np.testing.assert_allclose(codec.range(0, 16), (-1, 1), atol=1e-15)
    np.testing.assert_allclose(codec.expected(np.array([0, 8, 16])), [-16 / 17, 0, 16 / 17])


def test_moments_of_encoded_values_are_the_expected_ones():
    """5 standard errors: the noise has variance v and fourth moment 9/5 v^2; a false alarm in 1.7
    million.
    """
    codec, n = codec_of(17), 100_000
    k = np.full(n, 3)
    error = codec.encode(k, words_of(k)) - codec.expected(k)
    variance = codec.noise_variance
    assert abs(error.mean()) < 5 * math.sqrt(variance / n)
    assert abs(error.var() / variance - 1) < 5 * math.sqrt(0.8 / n)


def test_decoding_clips_what_a_sampler_overshoots():
    codec = codec_of(17)
    np.testing.assert_array_equal(codec.decode([-7.0, -1.0001, 1.0, 3.0]), [0, 0, 16, 16])
    np.testing.assert_array_equal(codec.decode([-np.inf, -3e38, 3e38, np.inf]), [0, 0, 16, 16])


@pytest.mark.parametrize("levels", [-1, 0, 1])
def test_a_number_of_levels_that_makes_no_sense_is_refused(levels):
    with pytest.raises(ValueError, match=f"levels must be None .* or at least 2, got {levels}"):
        codec_of(levels)


@pytest.mark.parametrize("levels", [None, 17])
def test_examples_without_values_have_no_bits_per_dim(levels):
    with pytest.raises(ValueError, match="need dim >= 1, .*, got 0"):
        codec_of(levels).bits_per_dim(0.0, 0)


def test_continuous_data_are_left_alone():
    codec, x = codec_of(None), np.array([-3.5, 0.0, 40.0], np.float32)
    np.testing.assert_array_equal(codec.encode(x, words_of(x)), x)
    np.testing.assert_array_equal(codec.decode(x), x)
    np.testing.assert_array_equal(codec.expected(x), x)
    assert codec.range(-3.5, 40.0) == (-3.5, 40.0)
    assert codec.noise_variance == 0


def test_nan_is_no_grey_level():
    with pytest.raises(ValueError, match="2 of 3 values are NaN"):
        codec_of(256).decode([np.nan, 0.0, np.nan])


@pytest.mark.parametrize(
    "levels, raw, problem",
    [
        (None, [0.0, np.inf], "holds inf, expected finite numbers"),
        (17, [0, 17], "holds 17, expected grey levels 0..16; repair"),
        (17, [-1.0, 0.0], "holds -1.0, expected grey levels 0..16, which are whole numbers"),
        (17, [0.5, 0.0], "holds 0.5, expected grey levels 0..16, which are whole numbers"),
    ],
)
def test_values_that_cannot_be_encoded_are_named(levels, raw, problem):
    assert codec_of(levels).problem(np.array(raw)).startswith(problem)
    assert codec_of(levels).problem(np.array([0, 1])) is None


def test_dequantisation_noise_is_uniform():
    n = 100_000
    words = np.random.default_rng(0).integers(0, 2**16, n, np.uint16)
    u = dequantised(np.zeros(n, np.uint8), words)
    # five standard errors each, so a false alarm once in 1.7 million seeds: mean 1/2 (variance
    # 1/12), variance 1/12 (kurtosis 9/5)
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(0.8 / 144 / n)
    assert u.min() > 0 and u.max() < 1


@pytest.mark.parametrize("levels", [17, 256])
def test_bits_per_dim_of_uniform_noise_is_the_logarithm_of_the_number_of_levels(levels):
    dim = 64
    log_prob = -dim * math.log(2)  # the uniform density on [-1, 1]^dim
    assert codec_of(levels).bits_per_dim(log_prob, dim) == pytest.approx(
        math.log2(levels), abs=1e-12
    )


def test_bits_per_dim_of_a_gaussian_is_its_differential_entropy_in_grey_levels():
    dim, sd, levels = 12, 0.1, 256
    # minus its entropy, in nats
    expected_log_prob = -dim * (0.5 * math.log(2 * math.pi * math.e) + math.log(sd))
    # entropy of the same Gaussian measured in levels
    in_levels = 0.5 * math.log2(2 * math.pi * math.e * (sd * levels / 2) ** 2)
    assert codec_of(levels).bits_per_dim(expected_log_prob, dim) == pytest.approx(
        in_levels, abs=1e-12
    )
    assert codec_of(None).bits_per_dim(expected_log_prob, dim) == pytest.approx(
        in_levels - math.log2(levels / 2), abs=1e-12
    )


def test_bits_per_dim_takes_a_batch():
    got = codec_of(None).bits_per_dim(np.array([-2.0, -4.0]) * math.log(2), 2)
    np.testing.assert_allclose(got, [1.0, 2.0])
