"""What an image file may hold: each kind is read as it looks, or refused; nothing is cut in
silence.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data import header
from experiments.data.header import image_header
from experiments.data.images import read_image

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (4, 5, 3), np.uint8)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def read(place, channels=3):
    image_header(place, "it")
    place.seek(0)
    return read_image(place, "it", channels)


def png_16(colour_type, channels):
    """Return a PNG with 16 bits a channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + bytes(2 * channels * 4) for _ in range(4))
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c))
        for name, c in chunks.items()
    ]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def tiff_16():
    """Return a TIFF with 16 bits in each of three channels."""
    tags = [
        (256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 210), (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, 96),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return io.BytesIO(start.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16) + bytes(4 + 96))


def avif_10():
    """Return the start of an AVIF file whose header says 10 bits."""
    content = bytearray(saved(Image.fromarray(COLOURS), "AVIF").getvalue())
    content[content.index(b"av1C") + 6] |= 0x40
    return io.BytesIO(bytes(content))


DEEP = {
    "16-bit grey PNG": lambda: png_16(0, 1),
    "16-bit RGB PNG": lambda: png_16(2, 3),
    "16-bit grey PNG with alpha": lambda: png_16(4, 2),
    "16-bit RGB PNG with alpha": lambda: png_16(6, 4),
    "16-bit RGB TIFF": tiff_16,
    "32-bit float TIFF": lambda: saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
    "32-bit integer TIFF": lambda: saved(Image.fromarray(np.zeros((4, 4), np.int32)), "TIFF"),
    "16-bit RGB PPM": lambda: io.BytesIO(b"P6 4 4 65535\n" + bytes(96)),
    "12-bit grey PGM": lambda: io.BytesIO(b"P5 4 4 4095\n" + bytes(32)),
    "float PFM": lambda: io.BytesIO(b"Pf 4 4 -1\n" + bytes(64)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_more_than_8_bits_are_refused(kind):
    for look in (lambda place: image_header(place, "it"), lambda place: read_image(place, "it", 3)):
        with pytest.raises(ValueError, match="it has more than 8 bits .*convert it to an 8-bit"):
            look(DEEP[kind]())


def test_an_avif_of_10_bits_is_told_by_its_header():
    """Pillow does not write such a file, nor open one whose header alone says so."""
    assert header._avif_is_deep(avif_10())
    assert not header._avif_is_deep(saved(Image.fromarray(COLOURS), "AVIF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_more_than_one_frame_is_refused(kind):
    frames = [Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(3)]
    place = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it has 3 frames; save the one that is meant"):
        image_header(place, "it")


def test_the_first_image_of_a_camera_with_previews_is_read():
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (200, 20)]
    place = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert abs(read(place).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "BMP", "PPM", "QOI"])
def test_lossless_kinds_are_read_as_they_are(kind):
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    place = saved(Image.fromarray(COLOURS), kind, **options.get(kind, {}))
    assert abs(read(place).astype(int) - COLOURS).max() <= (2 if kind == "AVIF" else 0)


def test_palettes_with_transparent_colours_lie_on_white():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = np.array([[[10, 20, 30], [255] * 3], [[70, 80, 90], [255] * 3]])
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(read(saved(image, kind, transparency=1)), expected)


def test_grey_with_alpha_is_grey_on_white():
    x = np.array([[[100, 255], [100, 0], [100, 128]]], np.uint8)
    place = saved(Image.fromarray(x, "LA"), "PNG")
    assert image_header(place, "it").channels == 1
    got = read(place, channels=1)[0, :, 0].astype(int)
    assert abs(got - [100, 255, 177]).max() <= 1  # 255 + (100 - 255) * 128 / 255


def test_half_transparent_colours_are_mixed_with_white():
    x = np.array([[[200, 0, 100, 128]]], np.uint8)
    expected = 255 + (x[0, 0, :3].astype(float) - 255) * 128 / 255
    got = read(saved(Image.fromarray(x, "RGBA"), "PNG"))[0, 0]
    assert abs(got - expected).max() <= 1


def test_cmyk_is_converted_without_a_profile():
    x = np.zeros((8, 32, 4), np.uint8)
    x[:, 8:16, 3] = 255  # black
    x[:, 16:24, 1:3] = 255  # magenta and yellow: red
    x[:, 24:, 0] = 255  # cyan
    got = read(saved(Image.fromarray(x, "CMYK"), "TIFF"))[4, 4::8]
    expected = [[255] * 3, [0] * 3, [255, 0, 0], [0, 255, 255]]
    assert abs(got.astype(int) - expected).max() <= 1


def test_black_and_white_and_bare_images_use_the_whole_range():
    x = np.array([[True, False]])
    np.testing.assert_array_equal(read(saved(Image.fromarray(x), "PNG"), 1)[0, :, 0], [255, 0])


def test_a_profile_is_ignored():
    place = saved(Image.fromarray(COLOURS), "PNG", icc_profile=b"no profile that could be applied")
    np.testing.assert_array_equal(read(place), COLOURS)


def test_camera_orientation_of_a_tiff_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    place = saved(Image.fromarray(COLOURS), "TIFF", exif=exif)
    assert image_header(place, "it")[:2] == (5, 4)
    place.seek(0)
    np.testing.assert_array_equal(read_image(place, "it", 3), np.rot90(COLOURS, -1))


def test_a_file_that_would_run_a_program_is_no_image():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    with pytest.raises(ValueError, match="cannot read it as an image .*of another kind"):
        read_image(io.BytesIO(script), "it", 3)


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF", "BMP", "PPM", "QOI"]
)
def test_a_damaged_file_is_named_or_read_and_nothing_else(kind):
    """Cut at each of 12 places, and with each of 40 bytes changed."""
    whole = saved(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)), kind).getvalue()
    damaged = [whole[: len(whole) * i // 12] for i in range(12)]
    for place in RNG.integers(0, len(whole), 40):
        changed = bytearray(whole)
        changed[place] ^= RNG.integers(1, 256)
        damaged.append(bytes(changed))
    for content in damaged:
        try:
            assert read_image(io.BytesIO(content), "it", 3).dtype == np.uint8
        except ValueError as error:
            assert str(error).startswith(("cannot read it as an image (", "it has "))
