import json
import math

import grain
import numpy as np
import pytest

from experiments.data import DataSet, batches, codec_of
from experiments.data.base import Source, check_split
from experiments.data.pipeline import random_words


class Numbered(DataSet):
    """Images whose pixels hold, from left to right, the digits of the example's index in base 16;
    the label is the index.
    """

    shape, levels, num_classes, splits = (2, 3, 1), 16, 1000, ("train",)

    def __init__(self, size):
        self.size = size

    def source(self, split):
        check_split(split, self.splits)

        def read(i):
            row = np.array([i // 256, i // 16 % 16, i % 16], np.uint8)
            return np.stack([row, row])[..., None], i

        return Source(self.size, read)


class Broken(Numbered):
    """One example of the given kind among good ones."""

    def __init__(self, levels, bad, at=3):
        super().__init__(8)
        self.levels, self.bad, self.at = levels, bad, at

    def source(self, split):
        return Source(
            self.size,
            lambda i: (self.bad if i == self.at else np.full(self.shape, 0, self.bad.dtype), 0),
        )


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key], strict=True)


def test_batches_have_the_documented_schema():
    iterator = batches(Numbered(20), "train", 8, seed=0, train=True)
    assert isinstance(iterator, grain.DatasetIterator)
    batch = next(iterator)
    assert set(batch) == {"x", "label"}
    assert batch["x"].shape == (8, 2, 3, 1) and batch["x"].dtype == np.float32
    assert batch["label"].shape == (8,) and batch["label"].dtype == np.int32
    assert -1 <= batch["x"].min() and batch["x"].max() < 1


@pytest.mark.parametrize("train", [True, False])
def test_labels_stay_with_their_images(train):
    for batch in take(batches(Numbered(300), "train", 50, seed=3, train=train), 6):
        k = codec_of(16).decode(batch["x"]).astype(int)[:, 0, :, 0]
        np.testing.assert_array_equal(k @ [256, 16, 1], batch["label"])


def test_a_training_epoch_holds_every_example_once_and_epochs_and_seeds_differ_in_order():
    def epochs(seed):
        labels = np.concatenate(
            [
                b["label"]
                for b in take(batches(Numbered(100), "train", 40, seed=seed, train=True), 5)
            ]
        )
        return labels[:100], labels[100:]

    first, second = epochs(0)
    for epoch in (first, second, *epochs(1)):
        # although 40 does not divide 100
        np.testing.assert_array_equal(np.sort(epoch), np.arange(100))
    orders = [first, second, epochs(1)[0], np.arange(100)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.2  # random orders agree in one place of a hundred


def test_neighbouring_seeds_are_not_shifted_copies_of_each_other():
    def second_epoch(seed):
        return np.concatenate(
            [b["label"] for b in take(batches(Numbered(50), "train", 50, seed=seed, train=True), 2)]
        )[50:]

    first_of_next = next(batches(Numbered(50), "train", 50, seed=1, train=True))["label"]
    assert (second_epoch(0) == first_of_next).mean() < 0.3


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_evaluation_sees_every_example_once_in_order_with_noise_of_its_own(batch_size):
    got = list(batches(Numbered(65), "train", batch_size, seed=5, train=False))
    assert [len(b["label"]) for b in got[:-1]] == [batch_size] * (len(got) - 1)
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in got]), np.arange(65))
    whole = next(batches(Numbered(65), "train", 65, seed=5, train=False))
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in got]), whole["x"])
    other = next(batches(Numbered(65), "train", 65, seed=6, train=False))
    assert (whole["x"] != other["x"]).mean() > 0.99


def test_training_and_held_out_data_have_noise_streams_of_their_own():
    data = Numbered(1)  # so that both streams begin with the same example
    train, held_out = (
        next(batches(data, "train", 1, seed=5, train=train))["x"] for train in (True, False)
    )
    np.testing.assert_array_equal(codec_of(16).decode(train), codec_of(16).decode(held_out))
    assert (train != held_out).all()  # 6 of 4096 values each: a false alarm once in 700 seeds


def test_training_noise_is_new_in_each_epoch():
    one, two = (
        b["x"][np.argsort(b["label"])]
        for b in take(batches(Numbered(60), "train", 60, seed=0, train=True), 2)
    )
    np.testing.assert_array_equal(codec_of(16).decode(one), codec_of(16).decode(two))
    assert (one != two).mean() > 0.99


@pytest.mark.parametrize("done", [0, 1, 7])
@pytest.mark.parametrize("flip", [False, True])
def test_a_resumed_stream_is_bitwise_the_one_never_stopped(done, flip):
    def fresh():
        return batches(Numbered(50), "train", 20, seed=9, train=True, flip=flip)

    uninterrupted = fresh()
    take(uninterrupted, done)
    state = json.loads(json.dumps(uninterrupted.get_state()))
    expected = take(uninterrupted, 6)
    resumed = fresh()
    take(resumed, 3)  # a state may also be set on an iterator that has been used and has read ahead
    resumed.set_state(state)
    assert_same(take(resumed, 6), expected)
    uninterrupted.set_state(state)
    assert_same(take(uninterrupted, 6), expected)


@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"balance": True}])
def test_the_parts_of_several_processes_are_together_the_batches_of_one(parts, settings):
    """Over two epochs, with the same noise, whatever the number of processes."""
    arguments = (Numbered(20), "train", 6)
    settings = {"seed": 3, "train": True, **settings}
    whole = take(batches(*arguments, **settings), 7)
    read = [take(batches(*arguments, **settings, part=(i, parts)), 7) for i in range(parts)]
    joined = [
        {key: np.concatenate([part[key] for part in of_batch]) for key in of_batch[0]}
        for of_batch in zip(*read, strict=True)
    ]
    assert_same(joined, whole)


def test_a_part_resumes_where_it_was():
    def part():
        return batches(Numbered(20), "train", 6, seed=3, train=True, part=(1, 2))

    expected = take(part(), 5)
    first = part()
    take(first, 2)
    again = part()
    again.set_state(json.loads(json.dumps(first.get_state())))
    assert_same(take(again, 3), expected[2:])


@pytest.mark.parametrize(("train", "size"), [(True, 7), (False, 6)])
def test_a_batch_that_cannot_be_read_in_parts_is_refused(train, size):
    with pytest.raises(ValueError, match=f"batch of {size} cannot be read in 2 equal parts"):
        batches(Numbered(20), "train", size, seed=0, train=train, part=(0, 2))


def test_reading_ahead_does_not_move_the_state():
    iterator = batches(Numbered(50), "train", 10, seed=0, train=True)
    states = [iterator.get_state()]
    for _ in range(2):
        next(iterator)
        states.append(iterator.get_state())
    assert len({json.dumps(s) for s in states}) == 3
    iterator.set_state(states[1])
    again = next(iterator)
    np.testing.assert_array_equal(
        again["x"], take(batches(Numbered(50), "train", 10, seed=0, train=True), 2)[1]["x"]
    )


def test_flips_mirror_about_half_of_the_images_and_nothing_else():
    n = 400
    plain, flipped = (
        next(batches(Numbered(n), "train", n, seed=2, train=True, flip=f)) for f in (False, True)
    )
    np.testing.assert_array_equal(plain["label"], flipped["label"])
    a, b = codec_of(16).decode(plain["x"]), codec_of(16).decode(flipped["x"])
    same, mirrored = (a == b).all((1, 2, 3)), (a == b[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    readable = same != mirrored  # an index such as 0x101 is its own mirror image
    # Binomial(n, 1/2): five standard deviations, a false alarm once in 1.7 million seeds
    assert abs(mirrored[readable].mean() - 0.5) < 5 * 0.5 / math.sqrt(readable.sum())


def test_flips_are_independent_of_the_noise():
    n = 1000
    plain, flipped = (
        next(batches(Numbered(n), "train", n, seed=2, train=True, flip=f))["x"]
        for f in (False, True)
    )
    levels = codec_of(16).decode(plain)
    readable = (levels != levels[:, :, ::-1]).any((1, 2, 3))
    mirrored = (levels != codec_of(16).decode(flipped)).any((1, 2, 3))[readable]
    noise = ((plain + 1) * 8 % 1)[readable]
    for upper_half in (noise > 0.5).reshape(len(noise), -1).T:
        # Binomial(n, 1/2): five standard deviations at 6 places, a false alarm once in 290,000
        # seeds
        assert abs((upper_half == mirrored).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(noise))


def test_random_words_are_blocks_of_one_stream():
    whole = random_words(3, 1, 0, 10, 65)
    assert whole.shape == (10, 65) and whole.dtype == np.uint16
    np.testing.assert_array_equal(random_words(3, 1, 4, 3, 65), whole[4:7])
    for other in (
        random_words(4, 1, 0, 10, 65),
        random_words(3, 0, 0, 10, 65),
        random_words(3, 1, 10, 10, 65),
    ):
        assert (
            other == whole
        ).mean() < 0.02  # 650 words agree by chance with probability 1/65536 each


def test_random_words_are_uniform_and_uncorrelated():
    n, width = 2000, 65
    u = random_words(0, 1, 0, n, width) / 2**16
    # five standard errors each, over fewer than 10^3 comparisons: a false alarm once in 10^3 seeds
    assert abs(u.mean(0) - 0.5).max() < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var(0) - 1 / 12).max() < 5 * math.sqrt(0.8 / 144 / n)
    c = np.asarray(np.corrcoef(u, rowvar=False))[np.triu_indices(width, 1)]
    assert abs(c[:1000]).max() < 5 / math.sqrt(n)
    lag = np.asarray(np.corrcoef(u[:-1].ravel(), u[1:].ravel()))[0, 1]
    assert abs(lag) < 5 / math.sqrt(n * width)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(split="dev"), "unknown split 'dev'; choose one of train"),
        (dict(batch_size=21), "batch_size 21 is larger than split 'train', which has 20 examples"),
        (dict(batch_size=0), "need batch_size >= 1, got 0"),
        (dict(batch_size=4.0), "batch_size must be a whole number, got 4.0"),
        (dict(seed=-1), "need seed >= 0, got -1"),
        (dict(seed=2**64), r"need seed <= 9223372036854775807, got 18446744073709551616; lower it"),
        (dict(seed="abc"), "seed must be a whole number, got 'abc'"),
        (dict(flip=True, train=False), "flip mirrors training images"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    arguments = dict(split="train", batch_size=4, seed=0, train=True) | arguments
    with pytest.raises(ValueError, match=message):
        batches(Numbered(20), **arguments)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="split 'train' is empty"):
        batches(Numbered(0), "train", 1, seed=0, train=False)


@pytest.mark.parametrize(
    ("levels", "bad", "message"),
    [
        (
            None,
            np.full((2, 3, 1), np.nan, np.float32),
            "example 3 of split 'train' holds nan, expected finite numbers",
        ),
        (
            16,
            np.full((2, 3, 1), 16, np.uint8),
            r"example 3 .* holds 16, expected grey levels 0..15",
        ),
        (
            16,
            np.full((2, 3, 1), -1, np.int32),
            r"example 3 .* holds -1, expected grey levels 0..15",
        ),
        (
            16,
            np.zeros((3, 2, 1), np.uint8),
            r"example 3 .* has shape \(3, 2, 1\), expected \(2, 3, 1\)",
        ),
    ],
)
def test_a_bad_example_is_named_when_it_is_read(levels, bad, message):
    with pytest.raises(ValueError, match=message):
        next(batches(Broken(levels, bad), "train", 8, seed=0, train=True))
