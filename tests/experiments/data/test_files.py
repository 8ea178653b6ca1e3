import numpy as np
import pytest
from PIL import Image, ImageOps

from experiments.data import Files, batches, codec_of, statistics

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def save(folder, images):
    for name, x in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(folder / name)
    return str(folder)


def everything(data):
    return [data.source(split)[i] for split in data.splits for i in range(len(data.source(split)))]


def test_a_folder_of_png_images_is_read_pixel_by_pixel(tmp_path):
    images = {f"{i:02d}.png": noise(6, 5, 3) for i in range(10)}
    data = Files(path=save(tmp_path, images), validation=0)
    assert (data.shape, data.levels, data.num_classes, data.splits) == (
        (6, 5, 3),
        256,
        0,
        ("train",),
    )
    for example, x in zip(everything(data), images.values(), strict=True):
        np.testing.assert_array_equal(example["x"], x, strict=True)
    batch = next(batches(data, "train", 10, seed=0, train=False))
    np.testing.assert_array_equal(codec_of(256).decode(batch["x"]), np.stack(list(images.values())))


def test_sub_folders_are_classes_if_all_images_lie_in_them(tmp_path):
    images = {
        f"{kind}/{i}.png": np.full((4, 4), 10 * label + i, np.uint8)
        for label, kind in enumerate(("cat", "dog"))
        for i in range(5)
    }
    data = Files(path=save(tmp_path, images))
    assert data.num_classes == 2 and data.shape == (4, 4, 1)
    assert {(e["x"][0, 0, 0] // 10, int(e["label"])) for e in everything(data)} == {(0, 0), (1, 1)}
    save(tmp_path, {".hidden.png": noise(4, 4), ".thumbnails/1.png": noise(2, 2)})
    assert Files(path=str(tmp_path)).num_classes == 2
    save(tmp_path, {"stray.png": noise(4, 4)})
    assert Files(path=str(tmp_path)).num_classes == 0


def test_the_split_is_a_partition_and_does_not_depend_on_what_else_is_there(tmp_path):
    images = {f"{i}.png": np.full((2, 2), i, np.uint8) for i in range(200)}
    path = save(tmp_path, images)

    def held_out():
        data = Files(path=path, validation=0.2)
        train, validation = (
            {int(data.source(s)[i]["x"][0, 0, 0]) for i in range(len(data.source(s)))}
            for s in ("train", "validation")
        )
        assert not train & validation
        return train, validation

    train, validation = held_out()
    assert train | validation == set(range(200))
    assert 10 < len(validation) < 75  # binomial(200, 0.2): mean 40, sd 5.7
    save(tmp_path, {f"{i}.png": np.full((2, 2), i, np.uint8) for i in range(200, 256)})
    more_train, more_validation = held_out()
    assert train <= more_train and validation <= more_validation


def test_even_a_tiny_folder_gets_both_splits(tmp_path):
    path = save(tmp_path, {f"{i}.png": noise(3, 3) for i in range(2)})
    for validation in (1e-9, 0.999999):
        data = Files(path=path, validation=validation)
        assert [len(data.source(split)) for split in data.splits] == [1, 1]


def test_image_size_cuts_the_centre_square_and_resamples(tmp_path):
    x = np.zeros((8, 12, 3), np.uint8)
    x[:, 2:10] = 200  # the central 8 x 8 pixels
    wide = Files(
        path=save(
            tmp_path,
            {"a.png": x, "b.png": x.swapaxes(0, 1), "c.jpg": np.full((9, 9, 3), 200, np.uint8)},
        ),
        image_size=4,
    )
    assert wide.shape == (4, 4, 3)
    for example in everything(wide):
        assert abs(example["x"].astype(int) - 200).max() <= 3  # c went through JPEG


def test_channels_convert_and_default_to_colour_if_any_image_is_coloured(tmp_path):
    path = save(
        tmp_path,
        {
            "grey.png": noise(4, 4),
            "red.png": np.broadcast_to(np.array([90, 0, 0], np.uint8), (4, 4, 3)),
        },
    )
    assert Files(path=path).shape == (4, 4, 3)
    grey = Files(path=path, channels=1)
    assert grey.shape == (4, 4, 1)
    assert {int(e["x"][0, 0, 0]) for e in everything(grey)} >= {27}  # ITU-R 601 luma: 0.299 x 90
    assert Files(path=path, channels=3, image_size=2).shape == (2, 2, 3)


def test_transparent_pixels_become_white(tmp_path):
    x = noise(4, 4, 4)
    x[..., 3] = 255
    x[0, 0] = 0
    data = Files(path=save(tmp_path, {"a.png": x, "b.png": x}))
    expected = x[..., :3].copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(data.source("train")[0]["x"], expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_camera_orientation_is_applied(tmp_path, orientation, suffix):
    picture, exif = Image.fromarray(noise(4, 6, 3)).resize((60, 40)), Image.Exif()
    exif[0x0112] = orientation
    for name in "ab":
        picture.save(tmp_path / f"{name}.{suffix}", exif=exif)
    data = Files(path=str(tmp_path))
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert data.shape == ((60, 40, 3) if orientation >= 5 else (40, 60, 3))
    np.testing.assert_array_equal(data.source("train")[0]["x"], expected)


@pytest.mark.parametrize("shape", [(12, 4, 5, 3), (12, 4, 5)])
def test_an_array_of_images_is_read_as_it_is(tmp_path, shape):
    x = noise(*shape)
    np.save(tmp_path / "x.npy", x)
    data = Files(path=str(tmp_path / "x.npy"), validation=0)
    assert data.levels == 256 and data.shape == (4, 5, shape[3] if len(shape) == 4 else 1)
    np.testing.assert_array_equal(
        np.stack([e["x"] for e in everything(data)]), x.reshape(12, *data.shape)
    )


@pytest.mark.parametrize("shape", [(50, 3), (50, 4, 4, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_array_of_floats_is_continuous_data(tmp_path, shape, dtype):
    x = RNG.normal(size=shape).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    data = Files(path=str(tmp_path / "x.npy"))
    assert (
        data.levels is None and data.shape == shape[1:] and data.splits == ("train", "validation")
    )
    batch = next(batches(data, "validation", 50, seed=0, train=False))["x"]
    assert batch.dtype == np.float32
    assert {row.tobytes() for row in batch} <= {row.tobytes() for row in x.astype(np.float32)}


def test_a_folder_is_not_decoded_before_it_is_read(tmp_path):
    path = save(tmp_path, {f"{i}.png": noise(16, 16, 3) for i in range(3)})
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])  # its header is good
    data = Files(path=path, validation=0)
    with pytest.raises(ValueError, match="cannot read 1.png as an image .*remove or replace it"):
        next(batches(data, "train", 3, seed=0, train=False))


def test_constant_images_are_named_by_their_file(tmp_path):
    path = save(tmp_path, {"a.png": noise(4, 4), "blank.png": np.full((4, 4), 255, np.uint8)})
    with pytest.raises(ValueError, match="blank.png of split 'train' is constant, all 255"):
        statistics(Files(path=path, validation=0), "train")


def test_mistakes_with_folders_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder or file .*nowhere"):
        Files(path=str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="no images in .*empty; expected files ending in .png"):
        Files(path=str(empty))
    mixed = save(tmp_path / "mixed", {"a.png": noise(4, 6), "b.png": noise(5, 6)})
    with pytest.raises(ValueError, match="'a.png' is 4 x 6, 'b.png' is 5 x 6; pass image_size="):
        Files(path=mixed)
    (tmp_path / "mixed" / "b.png").write_text("no image")
    with pytest.raises(ValueError, match="cannot read b.png as an image"):
        Files(path=mixed)
    deep = save(tmp_path / "deep", {"a.png": noise(4, 4).astype(np.uint16)})
    with pytest.raises(ValueError, match="a.png has more than 8 bits per channel"):
        Files(path=deep)
    one = save(tmp_path / "one", {"a.png": noise(4, 4)})
    with pytest.raises(ValueError, match="a single example cannot be split; pass validation=0"):
        Files(path=one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(validation=1.0), "need 0 <= validation < 1, got 1.0"),
        (dict(channels=2), r"channels must be 1 \(grey\) or 3 \(colour\), got 2"),
        (dict(image_size=0), "need image_size >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Files(path=save(tmp_path, {"a.png": noise(4, 4)}), **arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.zeros((4, 2, 2, 3), np.int64),
            r"int64 of shape \(4, 2, 2, 3\); expected uint8 .*astype",
        ),
        (noise(4, 9), r"uint8 of shape \(4, 9\); expected uint8 \(N, H, W, C\)"),
        (np.zeros((4, 2, 2)), r"float64 of shape \(4, 2, 2\); expected"),
        (np.zeros((0, 2)), r"float64 of shape \(0, 2\); expected .* none of them 0"),
        (noise(4, 3, 8, 8), r"looks like \(N, C, H, W\).*np.moveaxis\(x, 1, 3\)"),
        (
            RNG.random((9, 4, 4, 3)) * 255,
            "floats in .* with standard deviation .*: rescale them, or save images as uint8",
        ),
        (RNG.normal(size=(9, 2)) * 1e-4, "floats in .* with standard deviation .*: rescale them"),
        (np.full((9, 2), 0.5), "is constant, all 0.5"),
        (
            np.concatenate([RNG.normal(size=(6, 2, 2, 1)), np.ones((1, 2, 2, 1))]),
            "row 6 .*is constant, all 1.0",
        ),
        (
            np.concatenate([RNG.normal(size=(6, 2)), [[0.0, np.nan]]]),
            "row 6 .*holds nan, expected finite",
        ),
    ],
)
def test_mistakes_with_arrays_are_explained(tmp_path, x, message):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=message):
        Files(path=str(tmp_path / "x.npy"), validation=0)


def test_files_that_are_no_arrays_are_refused(tmp_path):
    (tmp_path / "x.npy").write_text("no array")
    with pytest.raises(ValueError, match="cannot read .*x.npy as a .npy array"):
        Files(path=str(tmp_path / "x.npy"))
    (tmp_path / "x.zip").write_text("")
    with pytest.raises(ValueError, match="x.zip is neither a folder nor an .npy file"):
        Files(path=str(tmp_path / "x.zip"))
    np.save(tmp_path / "y.npy", noise(4, 4, 4))
    with pytest.raises(ValueError, match="image_size resamples the images of a folder"):
        Files(path=str(tmp_path / "y.npy"), image_size=2)
    with pytest.raises(ValueError, match=r"shape \(4, 4, 1\), not images with 3 channels"):
        Files(path=str(tmp_path / "y.npy"), channels=3)


def test_a_split_that_is_not_held_out_is_explained(tmp_path):
    data = Files(path=save(tmp_path, {"a.png": noise(4, 4)}), validation=0)
    with pytest.raises(ValueError, match="data.validation is 0, .* no split 'validation'"):
        data.source("validation")


def test_images_of_a_folder_may_have_fewer_levels(tmp_path):
    path = save(tmp_path, {f"{i}.png": noise(4, 4) // 16 for i in range(9)})
    data = Files(path=path, levels=16, validation=0)
    assert data.levels == 16 and abs(statistics(data, "train").mean) < 0.3
    with pytest.raises(ValueError, match="holds 15, expected grey levels 0..14"):
        statistics(Files(path=path, levels=15, validation=0), "train")
