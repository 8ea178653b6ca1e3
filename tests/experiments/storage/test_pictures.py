from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import experiments
from experiments.data import codec_of
from experiments.storage.pictures import (
    grid,
    histogram,
    picture,
    save_gif,
    save_png,
    scatter,
    to_uint8,
)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_levels_are_spread_over_black_to_white(levels):
    k = np.arange(levels)
    x = codec_of(levels).expected(k).reshape(1, levels, 1, 1)  # the middle of each level's cell
    image = to_uint8(x, codec_of(levels))
    assert image.shape == (1, levels, 1, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(
        image[0, :, 0], np.repeat(np.rint(k * 255 / (levels - 1))[:, None], 3, 1)
    )


def test_continuous_images_run_from_minus_one_to_one_and_keep_their_colours():
    x = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 0.5]).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(to_uint8(x, codec_of(None)).ravel(), [0, 0, 128, 255, 255, 191])
    # without the alpha channel
    assert to_uint8(np.zeros((1, 2, 2, 4)), codec_of(None)).shape == (
        1,
        2,
        2,
        3,
    )


def test_a_grid_puts_images_row_by_row_between_white_lines():
    images = np.zeros((3, 1, 2, 3), np.uint8)
    images[:, :, 0] = np.array([10, 20, 30])[:, None, None]
    images[:, :, 1] = np.array([11, 21, 31])[:, None, None]
    expected = [
        [255, 255, 255, 255, 255, 255, 255],
        [255, 10, 11, 255, 20, 21, 255],
        [255, 255, 255, 255, 255, 255, 255],
        [255, 30, 31, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255, 255],
    ]
    np.testing.assert_array_equal(grid(images, size=4)[..., 0], expected)


def test_small_images_are_magnified_by_a_whole_factor():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, 3, 2, 3)).astype(np.uint8)
    got = grid(images, size=25)  # three columns of 2 pixels: 4 times, 2 between them
    assert got.shape == (2 * 12 + 3 * 2, 3 * 8 + 4 * 2, 3)
    np.testing.assert_array_equal(got[2:14, 12:20], images[1].repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(got[16:28, 2:10], images[3].repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(got[16:28, 12:20], images[4].repeat(4, 0).repeat(4, 1))


def test_points_are_drawn_where_they_lie():
    image = scatter(np.array([[0.9, 0.9]] * 50, np.float32), limit=1.0)
    assert image.shape == (400, 400, 3)
    # the only colour in the picture
    rows, columns = np.nonzero(np.abs(image.astype(int) - image[..., :1]).max(-1) > 20)
    assert len(rows) and rows.max() < 100 and columns.min() > 300  # upper right


def test_pictures_show_what_is_not_finite_as_nothing():
    x = np.full((1, 2, 2, 1), np.nan)
    assert picture(x, codec_of(17)).shape[-1] == 3
    assert picture(np.array([[np.nan, 0.0], [1.0, 1.0]]), codec_of(None)).shape == (400, 400, 3)


def test_png_and_gif_can_be_opened_again(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    save_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image)
    walk = np.random.default_rng(0).standard_normal((50, 3, 4, 4, 1))
    walk[:25] *= 100  # the noise of a wide prior
    save_gif(tmp_path / "a.gif", walk, codec_of(17), frames=6)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6
        first = np.asarray(gif.convert("RGB"))
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert durations == [60] * 5 + [1500]
    assert 20 < len(np.unique(first)) or first.std() < 110  # grey, not all black and white
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "new"]


SHAPES = [
    (),
    (1,),
    (2,),
    (3,),
    (50,),
    (8, 8),
    (8, 8, 1),
    (8, 8, 2),
    (8, 8, 3),
    (8, 8, 4),
    (8, 8, 5),
]
SHAPES += [(1, 1, 1), (1, 40, 1), (40, 1, 3), (8, 8, 64), (2, 8, 8, 3)]
CONTENTS = {
    "noise": lambda x: x,
    "zeros": np.zeros_like,
    "constant": lambda x: np.full_like(x, 0.7),
    "NaN": lambda x: np.full_like(x, np.nan),
    "infinity": lambda x: np.full_like(x, np.inf),
    "some NaN and infinities": lambda x: np.where(x > 1, np.nan, np.where(x < -1, -np.inf, x)),
    "huge": lambda x: np.full_like(x, 3e38) * np.sign(x),
    "tiny": lambda x: 1e-40 * x,
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_there_is_a_picture_and_an_animation_of_anything(tmp_path, shape):
    rng = np.random.default_rng(0)
    names = CONTENTS if len(shape) == 3 or shape in ((1,), (2,)) else ("noise", "NaN")
    for name, content in ((name, CONTENTS[name]) for name in names):
        for dtype in (np.float32, np.float16) if name == "noise" else (np.float32,):
            with np.errstate(all="ignore"):
                x = content(rng.standard_normal((5, *shape)).astype(np.float32)).astype(dtype)
            for levels in (None, 2, 256) if len(shape) == 3 else (None,):
                image = picture(x, codec_of(levels))
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    walk = np.stack([x, np.full_like(x, np.nan), rng.standard_normal(x.shape).astype(x.dtype)])
    save_gif(tmp_path / "walk.gif", walk, codec_of(None))
    for number in (0, 1):
        assert picture(x[:number], codec_of(None)).dtype == np.uint8


def test_the_first_channels_are_the_colours():
    x = np.linspace(-1, 1, 5).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(to_uint8(x[..., :2], codec_of(None)).ravel(), [0, 64, 0])
    np.testing.assert_array_equal(to_uint8(x, codec_of(None)).ravel(), [0, 64, 128])


def test_infinite_pixels_are_black_or_white_and_missing_ones_grey():
    x = np.array([np.inf, -np.inf, np.nan]).reshape(3, 1, 1, 1)
    # its middle
    colours = [int(picture(x[i : i + 1], codec_of(None))[400, 400, 0]) for i in range(3)]
    assert colours == [255, 0, 128]


def coloured(image):
    """Return the rows and columns of the pixels that are drawn in colour."""
    return np.nonzero(np.abs(image.astype(int) - image[..., :1]).max(-1) > 20)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_points_are_drawn_where_they_lie_at_any_scale(size):
    with_holes = np.array([[np.nan, 0], [0, np.inf], *[[0.9 * size, 0.9 * size]] * 50])
    rows, columns = coloured(scatter(with_holes, limit=size))
    assert len(rows) and rows.max() < 100 and columns.min() > 300
    rows, columns = coloured(scatter(np.array([[-size, -size]] * 50)))
    assert len(rows) and rows.min() > 300 and columns.max() < 120  # all points by default


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_numbers_are_counted_where_they_lie(size):
    x = size * np.concatenate([np.full(30, -0.9), np.full(10, 0.9)])[:, None]
    rows, columns = coloured(histogram(x, limit=size))
    left, right = columns < 200, columns > 200
    assert left.any() and right.any() and abs(columns - 200).min() > 100
    height = [400 - rows[side].min() for side in (left, right)]
    assert height[0] > 2 * height[1]
    np.testing.assert_array_equal(picture(x, codec_of(None), size), histogram(x, size))


def test_tall_images_do_not_make_an_enormous_picture():
    assert max(grid(np.zeros((9, 300, 1, 3), np.uint8)).shape) < 1000
    assert max(grid(np.zeros((9, 1, 300, 3), np.uint8)).shape) < 1000


def test_pictures_change_no_setting_of_matplotlib():
    """A script that imports the package and then pyplot gets the backend of its own choice."""
    for file in Path(experiments.__file__).parent.rglob("*.py"):
        assert "pyplot" not in file.read_text() and "MPLBACKEND" not in file.read_text(), file


def test_an_animation_of_points_is_framed_by_its_last_state(tmp_path, monkeypatch):
    limits = []

    def recorded(x, levels, limit):
        limits.append(limit)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr("experiments.storage.pictures.picture", recorded)
    save_gif(tmp_path / "a.gif", np.array([[[100.0, 0.0]], [[1.0, -2.0]]]), codec_of(None))
    assert limits == [pytest.approx(3.3), pytest.approx(3.3)]  # 1.65 times the largest coordinate
