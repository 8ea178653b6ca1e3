import math

import numpy as np
import pytest

from experiments.data import bits_per_dim, scale, unscale
from experiments.data.base import MOST_LEVELS
from experiments.data.scaling import DEQUANTISATION_BITS, dequantise


@pytest.mark.parametrize("levels", [2, 3, 17, 255, 256, 1000, MOST_LEVELS])
def test_unscale_undoes_scale_exactly_for_every_level_and_every_extreme_of_the_noise(levels):
    k = np.arange(levels, dtype=np.uint8 if levels <= 256 else np.int32)
    for word in (0, 1 << (16 - DEQUANTISATION_BITS), 2**15, 2**16 - 1):
        x = scale(dequantise(k, np.full(levels, word, np.uint16)), levels)
        assert x.dtype == np.float32 and x.min() >= -1 and x.max() < 1
        np.testing.assert_array_equal(unscale(x, levels), k)


def test_scale_maps_the_range_of_grey_levels_to_minus_one_and_one():
    np.testing.assert_allclose(scale([0.0, 8.5, 17.0], 17), [-1, 0, 1], atol=1e-6)


def test_unscale_clips_what_a_sampler_overshoots():
    np.testing.assert_array_equal(unscale([-7.0, -1.0001, 1.0, 3.0], 17), [0, 0, 16, 16])
    np.testing.assert_array_equal(unscale([-np.inf, -3e38, 3e38, np.inf], 17), [0, 0, 16, 16])


@pytest.mark.parametrize("levels", [-1, 0, 1])
def test_a_number_of_levels_that_makes_no_sense_is_refused(levels):
    calls = (lambda: scale([0.0], levels), lambda: unscale([0.0], levels))
    for call in (*calls, lambda: bits_per_dim(0.0, 2, levels)):
        with pytest.raises(ValueError, match=f"levels must be None .* or at least 2, got {levels}"):
            call()
    with pytest.raises(ValueError, match="need dim >= 1, .*, got 0"):
        bits_per_dim(0.0, 0, None)


def test_continuous_data_are_left_alone():
    x = np.array([-3.5, 0.0, 40.0], np.float32)
    np.testing.assert_array_equal(scale(x, None), x)
    np.testing.assert_array_equal(unscale(x, None), x)


def test_unscale_refuses_nan():
    with pytest.raises(ValueError, match="2 of 3 values are NaN"):
        unscale([np.nan, 0.0, np.nan], 256)


def test_dequantisation_noise_is_uniform():
    n = 100_000
    words = np.random.default_rng(0).integers(0, 2**16, n, np.uint16)
    u = dequantise(np.zeros(n, np.uint8), words)
    # five standard errors each, so a false alarm once in 1.7 million seeds: mean 1/2 (variance 1/12), variance 1/12 (kurtosis 9/5)
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(0.8 / 144 / n)
    assert u.min() > 0 and u.max() < 1


@pytest.mark.parametrize("levels", [17, 256])
def test_bits_per_dim_of_uniform_noise_is_the_logarithm_of_the_number_of_levels(levels):
    dim = 64
    log_prob = -dim * math.log(2)  # the uniform density on [-1, 1]^dim
    assert bits_per_dim(log_prob, dim, levels) == pytest.approx(math.log2(levels), abs=1e-12)


def test_bits_per_dim_of_a_gaussian_is_its_differential_entropy_in_grey_levels():
    dim, sd, levels = 12, 0.1, 256
    expected_log_prob = -dim * (
        0.5 * math.log(2 * math.pi * math.e) + math.log(sd)
    )  # minus its entropy, in nats
    in_levels = 0.5 * math.log2(
        2 * math.pi * math.e * (sd * levels / 2) ** 2
    )  # entropy of the same Gaussian measured in levels
    assert bits_per_dim(expected_log_prob, dim, levels) == pytest.approx(in_levels, abs=1e-12)
    assert bits_per_dim(expected_log_prob, dim, None) == pytest.approx(
        in_levels - math.log2(levels / 2), abs=1e-12
    )


def test_bits_per_dim_takes_a_batch():
    got = bits_per_dim(np.array([-2.0, -4.0]) * math.log(2), 2, None)
    np.testing.assert_allclose(got, [1.0, 2.0])
