"""Classes that come equally often, whatever they have."""

import json
from collections import Counter

import numpy as np
import pytest

from experiments.data import DataSet, batches, codec_of
from experiments.data.balanced import take_turns
from experiments.data.base import Source, check_split

SIZES = (3, 40, 7)  # examples of the classes 0, 1 and 3; class 2 has none
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], SIZES))


class Imbalanced(DataSet):
    """Images that hold their row number; classes of 3, 40, 0 and 7 examples."""

    shape, levels, num_classes, splits = (1, 1, 1), 256, 4, ("train",)

    def __init__(self, labels=LABELS):
        self.labels = labels
        self.reads = 0

    def source(self, split):
        check_split(split, self.splits)

        def read(i):
            self.reads += 1
            return np.full((1, 1, 1), i, np.uint8), int(self.labels[i])

        return Source(len(self.labels), read)


def rows(batch):
    return codec_of(256).decode(batch["x"])[:, 0, 0, 0].astype(int)


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def stream(seed=0, batch_size=7, **settings):
    return batches(
        Imbalanced(), "train", batch_size, seed=seed, train=True, balance=True, **settings
    )


def test_every_three_positions_show_every_class_once_and_labels_stay_with_their_images():
    taken = take(stream(batch_size=9), 20)
    for batch in taken:
        np.testing.assert_array_equal(batch["label"], LABELS[rows(batch)])
        for block in batch["label"].reshape(3, 3):
            assert sorted(block) == [0, 1, 3]
    orders = {tuple(block) for batch in taken for block in batch["label"].reshape(3, 3)}
    assert len(orders) == 6  # of 60 random orders each of the six is missing once in 50,000 seeds


def test_an_example_comes_again_only_after_all_others_of_its_class():
    taken = take(stream(batch_size=30), 12)  # 120 of each class
    label = np.concatenate([batch["label"] for batch in taken])
    row = np.concatenate([rows(batch) for batch in taken])
    for number, size in zip((0, 1, 3), SIZES, strict=True):
        own = row[label == number]
        assert len(own) == 120
        epochs = own[: 120 // size * size].reshape(-1, size)
        expected = np.flatnonzero(LABELS == number)
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), expected)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_position_shows_each_class_and_each_of_its_examples_with_the_same_probability():
    """Over 2000 seeds, within five standard deviations of a binomial share: at two positions of
    3 classes and the 3 examples of one, a false alarm in 100,000.
    """
    count = 2000
    for position in (0, 100):
        drawn = [take_turns(LABELS, seed)(position) for seed in range(count)]
        classes = Counter(LABELS[drawn].tolist())
        assert set(classes) == {0, 1, 3}
        for hits in classes.values():
            assert abs(hits / count - 1 / 3) < 5 * np.sqrt(2 / 9 / count)
        own = Counter(row for row in drawn if LABELS[row] == 0)
        total = sum(own.values())
        assert len(own) == 3
        for hits in own.values():
            assert abs(hits / total - 1 / 3) < 5 * np.sqrt(2 / 9 / total)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_the_stream_depends_on_seed_and_position_alone(batch_size):
    turns = take_turns(LABELS, 4)
    taken = take(stream(seed=4, batch_size=batch_size), 5)
    got = np.concatenate([rows(batch) for batch in taken])
    np.testing.assert_array_equal(got, [turns(position) for position in range(5 * batch_size)])
    later = take_turns(LABELS, 4)
    assert [later(position) for position in (40, 3)] == [turns(40), turns(3)]
    other = [take_turns(LABELS, 5)(position) for position in range(60)]
    assert np.mean([turns(p) == row for p, row in enumerate(other)]) < 0.5


@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_resumed_stream_is_bitwise_the_one_never_stopped(done):
    uninterrupted = stream(seed=2)
    take(uninterrupted, done)
    state = json.loads(json.dumps(uninterrupted.get_state()))
    resumed = stream(seed=2)
    take(resumed, 2)
    resumed.set_state(state)
    for a, b in zip(take(resumed, 4), take(uninterrupted, 4), strict=True):
        for name in ("x", "label"):
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_labels_are_read_once_and_only_when_they_are_needed():
    dataset = Imbalanced()
    stream = batches(dataset, "train", 5, seed=0, train=True, balance=True)
    assert dataset.reads == 0
    next(stream)
    # all labels, and the batches that were read ahead
    assert len(LABELS) + 5 <= dataset.reads <= len(LABELS) + 5 * 20


def test_one_class_is_shuffled_like_any_other():
    taken = [take_turns(np.zeros(6, int), 0)(position) for position in range(12)]
    assert sorted(taken[:6]) == sorted(taken[6:]) == list(range(6))


def test_it_is_refused_where_there_are_no_classes_or_nothing_is_trained():
    unlabelled = Imbalanced(np.zeros(9, int))
    unlabelled.num_classes = 0
    with pytest.raises(ValueError, match="got train=True and data of 0 classes"):
        batches(unlabelled, "train", 3, seed=0, train=True, balance=True)
    with pytest.raises(ValueError, match="got train=False and data of 4 classes"):
        batches(Imbalanced(), "train", 3, seed=0, train=False, balance=True)
