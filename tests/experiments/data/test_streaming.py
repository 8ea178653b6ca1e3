import tracemalloc

import numpy as np
import pytest

from experiments.data import (
    DataSet,
    blocks,
    codec_of,
    evenly_spaced,
    moments,
    statistics,
    streaming,
)
from experiments.data.base import BadExamples, Source


class Given(DataSet):
    splits = ("train",)

    def __init__(self, x, levels, labels=None, num_classes=0):
        self.x, self.levels, self.shape, self.num_classes = x, levels, x.shape[1:], num_classes
        self.labels = np.zeros(len(x), int) if labels is None else labels

    def source(self, split):
        return Source(len(self.x), lambda i: (self.x[i], self.labels[i]))


def grey(n=40, levels=17):
    return np.random.default_rng(0).binomial(levels - 1, 0.3, (n, 4, 5, 1)).astype(np.uint8)


@pytest.mark.parametrize("values", [1, 100, 10**6])
def test_blocks_hold_every_row_once_in_order(values):
    data = Given(grey(), 17, np.arange(40), 40)
    parts = list(blocks(data, "train", values=values))
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), data.x)
    np.testing.assert_array_equal(np.concatenate([part.label for part in parts]), np.arange(40))
    assert all(part.x.size <= max(values, 20) for part in parts)
    chosen = np.concatenate([part.x for part in blocks(data, "train", np.array([3, 5]), values)])
    np.testing.assert_array_equal(chosen, data.x[[3, 5]])


def test_evenly_spaced_rows_hold_the_ends():
    np.testing.assert_array_equal(evenly_spaced(9, 3), [0, 4, 8])
    np.testing.assert_array_equal(evenly_spaced(3, 9), [0, 1, 2])
    assert len(evenly_spaced(0, 9)) == 0


@pytest.mark.parametrize("levels", [None, 2, 17, 256])
@pytest.mark.parametrize("full", [False, True])
def test_moments_in_blocks_are_those_of_the_whole(monkeypatch, levels, full):
    """The oracle stacks everything in float64; the data's mean is large beside their deviations,
    where sums of squares lose digits.
    """
    monkeypatch.setattr(streaming.parts, "__defaults__", (50,))  # several blocks
    monkeypatch.setattr(streaming.blocks, "__defaults__", (None, 50))
    rng = np.random.default_rng(1)
    x = rng.integers(0, levels, (100, 6)) if levels else rng.normal(1e5, 1, (100, 6))
    x = x.astype(np.uint8 if levels else np.float64)
    data = Given(x, levels)
    y = x.astype(np.float64) if levels is None else (x.astype(np.float64) + 0.5) * 2 / levels - 1
    noise = 0 if levels is None else (2 / levels) ** 2 / 12
    result = moments(data, "train", full=full)
    np.testing.assert_allclose(result.mean, y.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.variance, y.var(0) + noise, rtol=1e-9)
    assert result.count == 100
    if full:
        expected = np.cov(y, rowvar=False, bias=True) + noise * np.eye(6)
        np.testing.assert_allclose(result.covariance, expected, rtol=1e-9, atol=1e-9)
    over_all = statistics(data, "train")
    assert over_all.mean == pytest.approx(y.mean(), rel=1e-12)
    assert over_all.sd == pytest.approx(np.sqrt(y.var() + noise), rel=1e-9)
    assert over_all.count == 100


def test_the_largest_grey_level_of_a_byte_does_not_wrap_round():
    result = statistics(Given(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 256), "train")
    assert (result.min, result.max) == (-1, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.float16, bool])
def test_grey_levels_in_any_type_have_the_same_statistics(dtype):
    x = grey(levels=2)
    result = statistics(Given(x.astype(dtype), 2), "train")
    assert result == statistics(Given(x.astype(np.int64), 2), "train")
    assert result.max == codec_of(2).range(0, 1)[1]


def test_moments_take_the_memory_of_a_block_and_not_of_the_data():
    data = Given(np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 1), np.uint8), 256)
    tracemalloc.start()
    moments(data, "train")
    statistics(data, "train")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 8 * 2**20  # 8 float64 arrays of a block of 2^20 values; naively 15 * 4 MB


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (np.full((4, 2), 0.5), 256, "holds 0.5, expected grey levels 0..255, which are whole"),
        (np.full((4, 2), 1j), None, "holds values of type complex128, expected numbers"),
        (np.full((4, 2), "a"), None, "holds values of type <U1, expected numbers"),
    ],
)
def test_values_of_another_kind_than_declared_are_refused(x, levels, message):
    with pytest.raises(BadExamples, match=message):
        statistics(Given(x, levels), "train")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (3, "example 2 of split 'train' has label 3, expected 0..2"),
        (-1, "example 2 has label -1, expected 0, 1, 2"),
        (2**31, "example 2 has label 2147483648, expected 0, 1, 2"),
        (0.5, "example 2 has label 0.5, expected a whole number"),
    ],
)
def test_labels_outside_the_classes_are_refused(label, message):
    labels = [0, 1, label, 1]
    with pytest.raises(BadExamples, match=message):
        statistics(Given(grey(4), 17, labels, 3), "train")


def test_all_bad_examples_are_named_at_once():
    x = np.random.default_rng(0).normal(size=(200, 2))
    x[[3, 77, 150]] = np.inf
    with pytest.raises(BadExamples, match="3 examples cannot be used") as error:
        statistics(Given(x, None), "train")
    assert [problem.split()[1] for problem in error.value.problems] == ["3", "77", "150"]
    x[:] = np.nan
    with pytest.raises(BadExamples, match="200 examples .*\n(.*\n)*.*and 150 more$"):
        statistics(Given(x, None), "train")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (dict(shape=[4, 5, 1]), r"Given.shape must be a tuple .*, got \[4, 5, 1\]"),
        (dict(shape=()), r"Given.shape must be a tuple"),
        (dict(levels=1), "Given.levels must be None or 2..1024, got 1"),
        (dict(levels=65536), "Given.levels must be None or 2..1024, got 65536; give finer data"),
        (dict(num_classes=None), "Given.num_classes must be 0 .*, got None"),
    ],
)
def test_facts_that_make_no_sense_are_refused(facts, message):
    data = Given(grey(), 17)
    for name, value in facts.items():
        setattr(data, name, value)
    with pytest.raises(ValueError, match=message):
        statistics(data, "train")
