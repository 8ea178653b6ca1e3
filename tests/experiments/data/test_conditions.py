"""Conditions beside the examples: read from files, checked, batched in step with their examples."""

import numpy as np
import pytest

from experiments import data
from experiments.data.base import BadExamples, DataSet, Source
from experiments.data.condition import check_conditions
from experiments.storage.identity import data_hash

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 2)).astype(np.float32)
COND = np.concatenate([X, X[:, :1] ** 2], axis=1)  # of which each belongs to its example


def saved(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_a_condition_stays_beside_its_example_in_every_split_and_batch(tmp_path):
    dataset = data.Files(path=saved(tmp_path / "a.npz", x=X, cond=COND))
    assert dataset.cond_shape == (3,) and dataset.num_classes == 0
    for split, train in (("train", True), ("validation", False)):
        size = min(len(dataset.source(split)), 8)
        batch = next(data.batches(dataset, split, size, seed=3, train=train))
        assert batch["cond"].dtype == np.float32 and batch["cond"].shape == (size, 3)
        np.testing.assert_array_equal(batch["cond"][:, :2], batch["x"])


def test_a_second_file_may_hold_the_conditions(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "c.npy", COND)
    dataset = data.Files(path=str(tmp_path / "x.npy"), cond=str(tmp_path / "c.npy"))
    batch = next(data.batches(dataset, "train", 8, seed=3, train=True))
    np.testing.assert_array_equal(batch["cond"][:, :2], batch["x"])
    with pytest.raises(FileNotFoundError, match="cond must name"):
        data.Files(path=str(tmp_path / "x.npy"), cond=str(tmp_path / "nothing.npy"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="cond is for arrays"):
        data.Files(path=str(tmp_path / "folder"), cond=str(tmp_path / "c.npy"))


def test_an_image_that_is_a_condition_is_mirrored_with_its_example(tmp_path):
    x = RNG.normal(size=(40, 4, 4, 1)).astype(np.float32)
    dataset = data.Files(path=saved(tmp_path / "a.npz", x=x, cond=np.concatenate([x, -x], -1)))
    assert dataset.cond_shape == (4, 4, 2)
    batch = next(data.batches(dataset, "train", 32, seed=3, train=True, flip=True))
    np.testing.assert_array_equal(batch["cond"][..., :1], batch["x"])
    rows = {row.tobytes() for row in x}
    flipped = sum(row.tobytes() not in rows for row in batch["x"])
    assert 4 < flipped < 28  # of 32; otherwise once in 1e5 times


def test_a_set_may_lack_members_but_not_all(tmp_path):
    cond = RNG.normal(size=(40, 3, 2)).astype(np.float32)
    cond[5, 1] = np.nan
    dataset = data.Files(path=saved(tmp_path / "a.npz", x=X, cond=cond), validation=0)
    assert dataset.cond_shape == (3, 2)
    assert (
        np.isnan(next(data.batches(dataset, "train", 40, seed=0, train=False))["cond"]).sum() == 2
    )
    cond[7] = np.nan
    with pytest.raises(ValueError, match="condition of row 7 of .* is a set without members"):
        data.Files(path=saved(tmp_path / "a.npz", x=X, cond=cond))
    cond[7] = 1.0
    cond[7, 0, 1] = np.nan
    with pytest.raises(ValueError, match="condition of row 7 of .* holds nan, expected finite"):
        data.Files(path=saved(tmp_path / "a.npz", x=X, cond=cond))


@pytest.mark.parametrize(
    "cond, message",
    [
        (COND[:30], "expected one for each of the 40 examples"),
        (COND.astype(np.int32), r"class labels are saved as y"),
        (COND[:, 0], r"cond\[:, None\] makes vectors"),
        (np.zeros((40, 0), np.float32), "expected floats"),
        (COND * 1e4, "number . of each has standard deviation .* rescale it"),
        (COND * 1e-4, "number 0 of each has standard deviation .* rescale it"),
        (np.where(np.arange(40)[:, None] == 9, np.inf, COND), "row 9 .* holds inf"),
        (np.zeros((40, 3, 3, 1), np.float32), r"height and width of the examples.*\(2,\)"),
    ],
)
def test_what_cannot_be_conditions_is_refused(cond, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        check_conditions(cond, 40, (2,), "place")


class Conditioned(DataSet):
    """Data of one's own that do not keep their promise, if `width` is not 3."""

    shape, levels, num_classes, splits = (2,), None, 0, ("train",)
    cond_shape = (3,)

    def __init__(self, read_cond):
        self.read_cond = read_cond

    def source(self, split):
        return Source(len(X), lambda i: (X[i], 0), read_cond=self.read_cond)


@pytest.mark.parametrize(
    "read_cond, error, message",
    [
        (lambda i: COND[i, :2], BadExamples, r"condition of example . .* has shape \(2,\)"),
        (lambda i: COND[i] * np.nan, BadExamples, "holds nan"),
        (None, ValueError, "has no read_cond"),
    ],
)
def test_data_of_ones_own_are_checked_as_they_are_read(read_cond, error, message):
    with pytest.raises(error, match=message):
        next(data.batches(Conditioned(read_cond), "train", 4, seed=0, train=True))


def test_a_declared_shape_is_checked():
    dataset = Conditioned(COND.__getitem__)
    dataset.cond_shape = (0,)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"cond_shape must be None, .* got \(0,\)"):
        next(data.batches(dataset, "train", 4, seed=0, train=True))


def test_the_hash_of_data_knows_their_conditions():
    one = data_hash(Conditioned(COND.__getitem__), "train")
    assert one == data_hash(Conditioned(COND.__getitem__), "train")
    assert one != data_hash(Conditioned((COND + 1e-3).__getitem__), "train")
