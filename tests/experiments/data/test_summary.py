import numpy as np
import pytest

from experiments.data import DataSet, batches, statistics
from experiments.data.base import Source


class Given(DataSet):
    splits, num_classes = ("train",), 0

    def __init__(self, x, levels):
        self.x, self.levels, self.shape = x, levels, x.shape[1:]

    def source(self, split):
        return Source(len(self.x), lambda i: (self.x[i], 0))


def images(n=300, levels=17):
    return np.random.default_rng(0).binomial(levels - 1, 0.3, (n, 4, 5, 1)).astype(np.uint8)


def test_statistics_agree_with_the_dequantised_data_themselves():
    data = Given(images(), 17)
    result = statistics(data, "train")
    x = np.concatenate(
        [
            next(batches(data, "train", 300, seed=seed, train=False))["x"].ravel()
            for seed in range(20)
        ]
    ).astype(np.float64)
    # only the noise differs, of variance (2/17)^2/12 over 20 x 6000 values: five standard errors of
    # its mean
    error = 5 * (2 / 17) / np.sqrt(12 * x.size)
    assert abs(result.mean - x.mean()) < error
    # twice the noise times the deviation from the mean, over twice the sd
    assert abs(result.sd - x.std()) < error
    # of the lowest and of the highest level's interval
    edges = (
        2 * data.x.min() / 17 - 1,
        2 * (int(data.x.max()) + 1) / 17 - 1,
    )
    np.testing.assert_allclose((result.min, result.max), edges, atol=1e-6)
    assert result.count == 300


def test_statistics_of_continuous_data_are_those_of_numpy():
    x = np.random.default_rng(1).normal(3, 2, (500, 2)).astype(np.float32)
    result = statistics(Given(x, None), "train")
    np.testing.assert_allclose(
        np.array(result),
        (x.mean(dtype=float), x.std(dtype=float), x.min(), x.max(), 500),
        rtol=1e-6,
    )


def test_a_large_split_is_sampled_evenly():
    x = np.linspace(-1, 1, 1001, dtype=np.float32)[:, None]
    result = statistics(Given(x, None), "train", limit=11)
    assert result.count == 11 and result.min == -1 and result.max == 1 and abs(result.mean) < 1e-6


def test_nan_is_named():
    x = np.random.default_rng(1).normal(size=(20, 2)).astype(np.float32)
    x[13, 1] = np.nan
    with pytest.raises(ValueError, match="example 13 of split 'train' holds nan"):
        statistics(Given(x, None), "train")


def test_a_constant_image_is_named():
    x = images()
    x[7] = 4
    with pytest.raises(ValueError, match="example 7 of split 'train' is constant, all 4"):
        statistics(Given(x, 17), "train")


def test_vectors_that_are_all_equal_are_refused():
    with pytest.raises(ValueError, match="split 'train' is constant, all 1.5"):
        statistics(Given(np.full((9, 2), 1.5, np.float32), None), "train")
    # a vector of equal numbers is a point like others
    statistics(Given(np.array([[1.0, 1.0], [2.0, 2.0]], np.float32), None), "train")


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="split 'train' is empty"):
        statistics(Given(np.zeros((0, 2), np.float32), None), "train")
