import numpy as np
import pytest
from PIL import Image

from experiments.data import scale
from experiments.pictures import grid, picture, save_gif, save_png, scatter, to_uint8


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_levels_are_spread_over_black_to_white(levels):
    k = np.arange(levels)
    x = scale(k + 0.5, levels).reshape(1, levels, 1, 1)  # the middle of each level's cell
    image = to_uint8(x, levels)
    assert image.shape == (1, levels, 1, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(
        image[0, :, 0], np.repeat(np.rint(k * 255 / (levels - 1))[:, None], 3, 1)
    )


def test_continuous_images_run_from_minus_one_to_one_and_keep_their_colours():
    x = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 0.5]).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(to_uint8(x, None).ravel(), [0, 0, 128, 255, 255, 191])
    assert to_uint8(np.zeros((1, 2, 2, 4)), None).shape == (1, 2, 2, 3)  # without the alpha channel


def test_a_grid_puts_images_row_by_row_between_white_lines():
    images = np.zeros((3, 1, 2, 3), np.uint8)
    images[:, :, 0], images[:, :, 1] = (
        np.array([10, 20, 30])[:, None, None],
        np.array([11, 21, 31])[:, None, None],
    )
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
    rows, columns = np.nonzero(
        np.abs(image.astype(int) - image[..., :1]).max(-1) > 20
    )  # the only colour in the picture
    assert len(rows) and rows.max() < 100 and columns.min() > 300  # upper right


def test_pictures_show_what_is_not_finite_as_nothing():
    x = np.full((1, 2, 2, 1), np.nan)
    assert picture(x, 17).shape[-1] == 3
    assert picture(np.array([[np.nan, 0.0], [1.0, 1.0]]), None).shape == (400, 400, 3)


def test_png_and_gif_can_be_opened_again(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    save_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image)
    walk = np.random.default_rng(0).standard_normal((50, 3, 4, 4, 1))
    walk[:25] *= 100  # the noise of a wide prior
    save_gif(tmp_path / "a.gif", walk, 17, frames=6)
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
