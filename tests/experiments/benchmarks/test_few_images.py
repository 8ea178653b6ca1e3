"""The yardsticks of the experiment on few images; training is not repeated here."""

import json

import numpy as np
import pytest

from experiments.benchmarks import few_images
from experiments.benchmarks.augmentation_judge import (
    augmented_copies,
    random_augmentations,
    train_judge,
)
from experiments.benchmarks.few_images import mean_and_error, picture, summarise, table
from experiments.data import codec_of

CODEC = codec_of(17)


def bars(number, seed):
    """Return images of an upright bar in one place, of random brightness, with noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 3, (number, 8, 8, 1))
    images[:, 1:7, 2:4] += rng.integers(8, 14, (number, 1, 1, 1))
    return images.astype(np.uint8)


@pytest.fixture(scope="module")
def judge():
    return train_judge(bars(600, 0), bars(300, 1), CODEC)


def test_the_judge_tells_augmented_images_from_others(judge):
    """Bars that were moved, turned or mirrored are seen; those of the same law are not."""
    assert judge.floor.value < 0.15
    assert judge.ceiling.value > 0.7
    floor = judge.share(bars(300, 2))
    assert abs(floor.value - judge.floor.value) < 0.1
    half = np.concatenate([bars(150, 3), augmented_copies(bars(150, 4), CODEC, copies=1, seed=9)])
    middle = (judge.floor.value + judge.ceiling.value) / 2
    assert judge.share(half).value == pytest.approx(middle, abs=0.12)


def test_copies_are_augmented_as_often_as_asked():
    images = bars(200, 0)
    every = augmented_copies(images, CODEC, copies=2, seed=0)
    assert every.shape == (400, 8, 8, 1) and every.dtype == np.uint8
    same = (every == np.tile(images, (2, 1, 1, 1))).all((1, 2, 3))
    assert same.mean() < 0.12  # a little of everything changes no grey level
    some = augmented_copies(images, CODEC, copies=5, seed=0, only=False)
    same = (some == np.tile(images, (5, 1, 1, 1))).all((1, 2, 3))
    assert 0.45 < same.mean() < 0.65  # 0.53 and those that show nothing; five standard deviations
    assert np.asarray(random_augmentations(50, seed=1) != 0).any(1).all()


def rows():
    bits = {(100, 0): (3.0, 2.5), (100, 1): (3.4, 2.7), (300, 0): (2.2, 2.1)}
    result = []
    for (images, seed), pair in bits.items():
        for method, value in zip(("none", "told"), pair, strict=True):
            row = dict.fromkeys(few_images.COLUMNS, 0.25)
            del row["gain"]
            row |= {"images": images, "seed": seed, "method": method, "bits_per_dim": value}
            result.append(row)
    return result


def test_the_summary_pairs_models_of_the_same_images():
    """Means, standard errors of two values (half their difference), and gains by hand."""
    entries = {(entry["images"], entry["method"]): entry for entry in summarise(rows())}
    assert set(entries) == {(n, m) for n in (100, 300) for m in ("none", "told")}
    few = entries[100, "told"]
    assert few["seeds"] == 2
    assert few["bits_per_dim"] == pytest.approx({"value": 2.6, "std_error": 0.1})
    assert few["gain"] == pytest.approx({"value": 0.6, "std_error": 0.1})
    assert entries[100, "none"]["gain"]["value"] == 0
    alone = entries[300, "told"]["gain"]
    assert alone["value"] == pytest.approx(0.1) and np.isnan(alone["std_error"])
    assert np.isnan(mean_and_error([])["value"])


def test_table_and_picture_show_every_entry(judge):
    summary = summarise(rows())
    lines = table(summary).splitlines()
    assert len(lines) == 2 + len(summary)
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert "2.600 ± 0.100" in lines[3]
    figure = picture(summary, judge)
    curves = [line for line in figure.axes[0].lines if np.array_equal(line.get_ydata(), [2.6, 2.1])]
    assert curves
    np.testing.assert_array_equal(curves[0].get_xdata(), [100, 300])


def test_rows_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    made = []

    def measure(experiment, images, method, seed):
        made.append((images, method, seed))
        return {"images": images, "method": method, "seed": seed}

    monkeypatch.setattr(few_images, "measure", measure)
    (tmp_path / "20_told_1.json").write_text(
        json.dumps({"images": 20, "method": "told", "seed": 1})
    )
    experiment = few_images.Experiment(few_images.TINY, *[None] * 5)  # pyright: ignore
    got = list(few_images.rows_as_they_come(experiment, tmp_path))
    assert len(got) == 2 * 5 and len(made) == 9 and (20, "told", 1) not in made
    assert list(few_images.rows_as_they_come(experiment, tmp_path)) == got and len(made) == 9
    assert {images for images, method, _ in made if method == "untold"} == {40}
