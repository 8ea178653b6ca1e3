"""Arrays as people have them: types, orders of bytes and axes, ranges of values, labels, archives,
and files that are no arrays.
"""

import pickle
import zipfile

import numpy as np
import pytest

from experiments.data import Files, batches, codec_of, statistics, streaming

RNG = np.random.default_rng(0)
FIELD = RNG.normal(size=(20, 4, 5, 2))
GREY = RNG.integers(0, 256, (20, 8, 8, 3), np.uint8)


def saved(folder, x, **others):
    if others:
        np.savez(folder / "x.npz", x=x, **others)
        return str(folder / "x.npz")
    np.save(folder / "x.npy", x)
    return str(folder / "x.npy")


def values(data):
    return np.stack([data.source("train")[i]["x"] for i in range(len(data.source("train")))])


def labels(data):
    return [int(data.source("train")[i]["label"]) for i in range(len(data.source("train")))]


# ---------------------------------------------------------------- types and orders


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", ">f2", np.longdouble])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_any_size_and_order_of_bytes_or_axes_are_the_same_data(tmp_path, dtype, order):
    x = np.asarray(FIELD, dtype, order=order)
    data = Files(path=saved(tmp_path, x), validation=0)
    assert data.levels is None and values(data).dtype == np.float32
    np.testing.assert_array_equal(values(data), FIELD.astype(dtype).astype(np.float32))


def test_bytes_in_fortran_order_are_the_same_images(tmp_path):
    data = Files(path=saved(tmp_path, np.asfortranarray(GREY)), validation=0)
    np.testing.assert_array_equal(values(data), GREY)


def test_truth_values_are_images_of_two_grey_levels(tmp_path):
    x = GREY[..., :1] > 127
    data = Files(path=saved(tmp_path, x), validation=0)
    assert data.levels == 2 and statistics(data, "train").max == 1
    np.testing.assert_array_equal(values(data), x)
    batch = next(batches(data, "train", 20, seed=0, train=False))["x"]
    np.testing.assert_array_equal(codec_of(2).decode(batch), x)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FIELD + 1j, "holds complex128 .*save the real and the imaginary part"),
        (np.zeros(9, [("a", "f4"), ("b", "f4")]), r"expected .*x\['a'\] is one field"),
        (np.full((9, 2), "a"), "holds <U1 .*save numbers"),
        (np.full((9, 2), np.datetime64("2020")), "holds datetime64"),
        (GREY.astype(np.int64), "its values are 0..255: save x.astype"),
        (
            GREY.astype(np.uint16) * 257,
            r"its values are 0..65535: pass data.value_range=\(0, 65535\)",
        ),
        (np.full((9, 2), 2**60), "its values are 1152921504606846976"),
        (np.zeros(()), r"shape \(\); expected"),
        (RNG.normal(size=9), r"shape \(9,\); expected .*x\[:, None\]"),
        (RNG.normal(size=(9, 4, 4)), r"x\[..., None\] makes images of one channel"),
        (RNG.normal(size=(9, 4, 4, 4, 1)), r"x.reshape\(len\(x\), -1\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "there are no examples in it"),
        (np.zeros((9, 0)), "there are no examples in it"),
        (FIELD[:1] * 0 + 3, "row 0 .*is constant, all 3.0"),
        (np.full((4, 8, 8), 7, np.uint8), None),  # of one colour: the statistics say so
    ],
)
def test_arrays_that_are_no_examples_say_what_to_do(tmp_path, x, message):
    path = saved(tmp_path, x)
    if message is None:
        return statistics_fail(Files(path=path, validation=0))
    with pytest.raises(ValueError, match=message):
        Files(path=path, validation=0)


def statistics_fail(data):
    with pytest.raises(ValueError, match="is constant"):
        statistics(data, "train")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 12, 19])
def test_what_is_not_finite_is_named_though_no_statistics_look_there(tmp_path, bad, row):
    x = FIELD.copy()
    x[row, 3, 4, 1] = bad
    for dtype in (np.float64, ">f4", np.float16):
        with pytest.raises(ValueError, match=f"row {row} of .* holds {bad}, expected finite"):
            Files(path=saved(tmp_path, x.astype(dtype)))
    with pytest.raises(ValueError, match=f"row {row} .*expected finite"):
        Files(path=saved(tmp_path, x), value_range=(-9, 9))


def test_rows_are_counted_through_all_blocks(tmp_path, monkeypatch):
    # five examples of FIELD in a block
    monkeypatch.setattr(streaming.parts, "__defaults__", (200,))
    x = FIELD.copy()
    x[12, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="row 12 of .* holds nan"):
        Files(path=saved(tmp_path, x))
    grey = np.full((20, 8, 8), 35, np.uint8)
    grey[17, 1, 2] = 41
    with pytest.raises(ValueError, match="row 17 of .* holds 41, expected grey levels 0..39"):
        Files(path=saved(tmp_path, grey), levels=40)


def test_vectors_of_another_scale_are_refused(tmp_path):
    for size in (30, 1e-3):
        with pytest.raises(ValueError, match="should have a standard deviation of about 1"):
            Files(path=saved(tmp_path, size * RNG.normal(size=(50, 3))))


def test_float64_beyond_float32_is_refused_before_it_overflows(tmp_path):
    with pytest.raises(ValueError, match=r"holds floats in .*e\+200.*rescale them"):
        Files(path=saved(tmp_path, FIELD * 1e200))


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("size", [(32, 32), (24, 32), (32, 24)])
def test_channels_first_are_refused_and_channels_last_are_not(tmp_path, channels, size):
    first = RNG.normal(size=(10, channels, *size)).astype(np.float32)
    with pytest.raises(ValueError, match=r"looks like \(N, C, H, W\).*np.moveaxis\(x, 1, 3\)"):
        Files(path=saved(tmp_path, first))
    data = Files(path=saved(tmp_path, np.moveaxis(first, 1, 3)))
    assert data.shape == (*size, channels)


def test_images_of_two_rows_are_images(tmp_path):
    for channels in (1, 3, 4):
        path = saved(tmp_path, RNG.normal(size=(9, 2, 8, channels)))
        assert Files(path=path).shape == (2, 8, channels)


def test_features_of_many_channels_are_taken_where_it_is_said(tmp_path):
    path = saved(tmp_path, RNG.normal(size=(4, 16, 16, 768)))
    assert Files(path=path).shape == (16, 16, 768)
    path = saved(tmp_path, RNG.normal(size=(4, 4, 16, 32)))
    assert Files(path=path, channels=32).shape == (4, 16, 32)


def test_one_image_is_not_taken_for_a_list_of_thin_ones(tmp_path):
    for x in (GREY[0].repeat(4, 0), RNG.integers(0, 256, (64, 48, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"looks like one image \(H, W, C\).*x\[None\]"):
            Files(path=saved(tmp_path, x))
        assert Files(path=saved(tmp_path, x[None]), validation=0).shape == x.shape


def test_one_example_is_a_data_set(tmp_path):
    data = Files(path=saved(tmp_path, GREY[:1]), validation=0)
    assert next(batches(data, "train", 1, seed=0, train=True))["x"].shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="a single example cannot be split; pass validation=0"):
        Files(path=saved(tmp_path, GREY[:1]))


# ---------------------------------------------------------------- ranges of values


@pytest.mark.parametrize(
    ("x", "suggested"),
    [
        (GREY / 255, "(0.0, 1.0)"),
        (GREY / 255 * 0.9 + 0.05, "(0.0, 1.0)"),
        (GREY.astype(np.float32), "(0.0, 255.0)"),
        (GREY / 51, "(0.0, 5.0)"),
        (-(GREY / 255), "(-1.0, -0.0)"),
    ],
)
def test_float_images_on_one_side_of_zero_are_refused_and_the_message_mends_it(
    tmp_path, x, suggested
):
    path = saved(tmp_path, x)
    with pytest.raises(ValueError, match="floats are used as they are") as error:
        Files(path=path)
    assert f"data.value_range={suggested}" in str(error.value)
    low, high = eval(suggested)
    data = Files(path=path, value_range=(low, high), validation=0)
    assert data.levels is None
    np.testing.assert_allclose(values(data), (x - low) / (high - low) * 2 - 1, atol=1e-6)
    statistics_of_file = statistics(data, "train")
    assert (
        -1 <= statistics_of_file.min
        and statistics_of_file.max <= 1
        and abs(statistics_of_file.mean) < 0.2
    )


def test_centred_images_and_vectors_of_any_sign_are_taken_as_they_are(tmp_path):
    centred = GREY / 127.5 - 1
    np.testing.assert_array_equal(
        values(Files(path=saved(tmp_path, centred), validation=0)), centred.astype(np.float32)
    )
    Files(path=saved(tmp_path, RNG.random((30, 2))))
    unit = Files(path=saved(tmp_path, GREY / 255), value_range=(-1, 1), validation=0)
    np.testing.assert_allclose(values(unit), GREY / 255, atol=1e-6)  # as is, where it is said


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float16, ">i4"])
def test_numbers_of_any_type_are_mapped_to_the_range(tmp_path, dtype):
    data = Files(path=saved(tmp_path, GREY.astype(dtype)), value_range=(0, 255), validation=0)
    assert data.levels is None
    np.testing.assert_allclose(values(data), GREY / 127.5 - 1, atol=1e-6)


def test_values_outside_a_declared_range_are_refused(tmp_path):
    path = saved(tmp_path, GREY / 255)
    with pytest.raises(ValueError, match=r"values in 0..1, outside data.value_range=\(0.0, 0.5\)"):
        Files(path=path, value_range=(0, 0.5))
    with pytest.raises(ValueError, match="next to nothing of data.value_range.*narrow it"):
        Files(path=path, value_range=(0, 255))


def test_bytes_that_use_few_grey_levels_ask_for_their_number(tmp_path):
    path = saved(tmp_path, GREY // 16)
    with pytest.raises(ValueError, match="only the grey levels 0..15 .*data.levels=16"):
        Files(path=path)
    data = Files(path=path, levels=16, validation=0)
    assert data.levels == 16 and abs(statistics(data, "train").mean) < 0.1
    assert Files(path=path, levels=256).levels == 256
    with pytest.raises(ValueError, match="row .* holds 15, expected grey levels 0..14; raise data"):
        Files(path=path, levels=15)
    with pytest.raises(ValueError, match="data.levels is for uint8 images"):
        Files(path=saved(tmp_path, FIELD), levels=16)


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([0, 1, 2, 1], [0, 1, 2, 1]),
        (np.array([0, 1, 2, 1], np.uint8), [0, 1, 2, 1]),
        (np.array([0, 1, 2, 1], ">i8"), [0, 1, 2, 1]),
        ([0.0, 1.0, 2.0, 1.0], [0, 1, 2, 1]),
        ([[0], [1], [2], [1]], [0, 1, 2, 1]),
        ([True, False, True, False], [1, 0, 1, 0]),
        (["cat", "bird", "dog", "bird"], [1, 0, 2, 0]),
        ([b"cat", b"bird", b"dog", b"bird"], [1, 0, 2, 0]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_labels_are_read_from_an_archive_or_a_second_file(tmp_path, y, expected):
    x = RNG.normal(size=(4, 3))
    np.save(tmp_path / "y.npy", np.asarray(y))
    for name in ("y", "label", "labels"):
        data = Files(path=saved(tmp_path, x, **{name: np.asarray(y)}), validation=0)
        assert data.num_classes == max(expected) + 1 and labels(data) == expected
    data = Files(path=saved(tmp_path, x), labels=str(tmp_path / "y.npy"), validation=0)
    assert data.num_classes == max(expected) + 1 and labels(data) == expected


def test_labels_stay_with_their_examples_in_both_splits(tmp_path):
    x = np.stack([RNG.normal(size=50), np.arange(50) / 20], 1)
    data = Files(path=saved(tmp_path, x, y=np.arange(50)), validation=0.3)
    for split in data.splits:
        batch = next(batches(data, split, 10, seed=0, train=split == "train"))
        np.testing.assert_allclose(batch["x"][:, 1], batch["label"] / 20, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2], r"shape \(3,\); expected one for each of the 4 examples, of shape \(4,\)"),
        (np.eye(4), r"one number an example: np.argmax\(y, 1\)"),
        ([0, 1, -1, 1], "label -1 of row 2 is not one of 0, 1, 2"),
        ([0, 1, np.nan, 1], "label nan of row 2 is not one of"),
        ([0, 1, np.inf, 1], "label inf of row 2 is not one of"),
        ([0, 1, 0.5, 1], r"label 0.5 of row 2 .*np.unique\(y, return_inverse=True\)"),
        ([1, 2, 3, 1], r"3 different ones of 1..3, but none is 0; classes have to be 0..2"),
        ([0, 1, 5, 1], "3 different ones of 0..5, but none is 2, 3"),
        ([0, 1, 2**62, 1], "none is 2, 3"),
        ([0, 1, 1e300, 1], "none is 2, 3"),
        (np.array([0, 1, 2, 1j]), "expected whole numbers or texts"),
        (np.array([0, 1, 2, 1], "M8[s]"), "expected whole numbers or texts"),
        (7, r"shape \(\)"),
    ],
)
def test_labels_that_are_no_classes_say_what_to_do(tmp_path, y, message):
    with pytest.raises(ValueError, match=message):
        Files(path=saved(tmp_path, RNG.normal(size=(4, 3)), y=np.asarray(y)), validation=0)


# ---------------------------------------------------------------- files


def test_archives_name_their_examples(tmp_path):
    path = tmp_path / "a.npz"
    for names in (("x",), ("images", "label"), ("data", "y"), ("features",)):
        np.savez(
            path,
            **{
                name: RNG.normal(size=(4, 2)) if i == 0 else [0, 1, 0, 1]
                for i, name in enumerate(names)
            },
        )
        data = Files(path=str(path), validation=0)
        assert data.shape == (2,) and data.num_classes == 2 * (len(names) - 1)
    np.savez_compressed(path, x_train=FIELD, y_train=FIELD)
    with pytest.raises(
        ValueError, match=r"holds the arrays x_train, y_train; expected x.*np.savez"
    ):
        Files(path=str(path))
    np.savez(path)
    with pytest.raises(ValueError, match=r"holds the arrays \(none\)"):
        Files(path=str(path))


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_objects_are_refused_and_not_executed(tmp_path, name):
    x = np.empty(3, object)
    x[:] = [Touch(tmp_path / "touched")] * 3
    if name == "x.npy":
        np.save(tmp_path / name, x, allow_pickle=True)
    else:
        np.savez(tmp_path / name, x=x)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    for file in (name, "p.npy"):
        with pytest.raises(ValueError, match="Python objects, which would have to be executed"):
            Files(path=str(tmp_path / file))
    assert not (tmp_path / "touched").exists()


def test_contents_count_and_not_the_name_of_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", x=FIELD)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", FIELD)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    assert Files(path=str(tmp_path / "a.npy")).shape == Files(path=str(tmp_path / "b.npz")).shape


def test_damaged_files_are_named(tmp_path):
    """Cut at each of 20 places, and with each of 60 bytes changed: read, or one error that names
    the file.
    """
    for name in ("x.npy", "x.npz"):
        path = saved(tmp_path, FIELD, **({"y": np.arange(20)} if name == "x.npz" else {}))
        whole = (tmp_path / name).read_bytes()
        damaged = [whole[: len(whole) * i // 20] for i in range(20)]
        for place in [*range(0, 120, 4), *RNG.integers(0, len(whole), 30)]:
            changed = bytearray(whole)
            changed[place] ^= RNG.integers(1, 256)
            damaged.append(bytes(changed))
        for content in damaged:
            (tmp_path / name).write_bytes(content)
            try:
                Files(path=path, validation=0)
            except ValueError as error:
                assert name in str(error) or "row " in str(error), error


def test_archives_that_cannot_be_unpacked_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(ValueError, match="x.npz"):
        Files(path=str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.csv", r"neither a folder nor an .npy file or .npz archive; convert the table: np.save"),
        ("x.png", "it is one image: name the folder that holds it"),
        ("x.h5", "read it with the library that wrote it and save the examples"),
        ("x", "neither a folder nor an .npy file"),
    ],
)
def test_files_of_other_kinds_say_how_to_convert_them(tmp_path, name, message):
    (tmp_path / name).write_text("1,2")
    with pytest.raises(ValueError, match=message):
        Files(path=str(tmp_path / name))
    np.save(tmp_path / "x.npy", FIELD)
    with pytest.raises(ValueError, match=message):
        Files(path=str(tmp_path / "x.npy"), labels=str(tmp_path / name))


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(path=""),
            "path must name a file or a folder, got ''; for the current folder write .",
        ),
        (dict(path="  "), "path must name a file or a folder"),
        (dict(path=5), "path must name a file or a folder, got 5"),
        (dict(path="~nobody-of-this-name/x"), "write the whole path"),
        (dict(validation="abc"), "need 0 <= validation < 1, got abc"),
        (dict(validation=float("nan")), "need 0 <= validation < 1, got nan"),
        (dict(validation=-0.1), "need 0 <= validation < 1, got -0.1"),
        (dict(validation=5), "need 0 <= validation < 1, got 5"),
        (dict(validation=True), "need 0 <= validation < 1, got True"),
        (dict(image_size=-1), "need image_size >= 1, got -1"),
        (dict(image_size="abc"), "image_size must be a whole number, got 'abc'"),
        (dict(image_size=1.5), "image_size must be a whole number, got 1.5"),
        (dict(image_size=10**9), "need image_size <= 8192, got 1000000000"),
        (dict(channels="rgb"), "channels must be a whole number, got 'rgb'"),
        (dict(levels=1), "need levels >= 2, got 1"),
        (dict(levels=70000), "need levels <= 1024, got 70000"),
        (dict(value_range=(1, 0)), "value_range must be .low, high. with low < high"),
        (dict(value_range=1), r"value_range must be two numbers such as \(0, 1\), got 1"),
        (dict(value_range=(0, float("inf"))), "value_range must be a finite number, got inf"),
        (dict(value_range=(0, 10**400)), "value_range must be a finite number, got 1000"),
        (dict(validation=10**400), "need 0 <= validation < 1, got 1000"),
        (dict(skip_unreadable="yes"), "skip_unreadable must be True or False, got 'yes'"),
        (dict(skip_unreadable=True), "skip_unreadable is for folders"),
        (dict(labels=""), "labels must name a file"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        Files(**{"path": saved(tmp_path, FIELD), **settings})


def test_a_missing_second_file_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no folder or file .*nowhere.npy; labels must name"
    ):
        Files(path=saved(tmp_path, FIELD), labels=str(tmp_path / "nowhere.npy"))
