"""What the header of an image file says, and which images are refused.

Refused are those of which something would be lost in silence.
"""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

Place = Path | io.BytesIO

# The formats that are read. Others are left out: some run a program (EPS), some hold more than 8
# bits unseen (JPEG 2000).
Image.init()  # so that Pillow knows all of them
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "QOI", "TIFF", "WEBP")
ORIENTATION = 0x0112  # EXIF tag
BITS_PER_SAMPLE = 258  # TIFF tag
REMEDY = "remove or replace it"


class Header(NamedTuple):
    """The facts of one image file, upright."""

    height: int
    width: int
    channels: int  # 1 if it is stored in grey, else 3
    orientation: int  # how the camera was held, as EXIF numbers it; 1 is upright


def open_image(place: Place, name: str, remedy: str = REMEDY) -> Image.Image:
    """Open an image file without decoding it.

    Raises:
      ValueError: it is no image of the `FORMATS`, has more than 8 bits a channel, more than one
          frame or more than 89 million pixels.
    """
    with naming(name, remedy):
        image = Image.open(place, formats=FORMATS)
    try:
        with naming(name, remedy):
            reason = _refused(image, place)
        if reason:
            raise ValueError(f"{name} {reason}; {remedy}")
    except ValueError:
        image.close()
        raise
    return image


def image_header(place: Place, name: str, remedy: str = REMEDY) -> Header:
    """Return the facts of an image file, without decoding it; raise the errors of `open_image`."""
    with open_image(place, name, remedy) as image:
        with naming(name, remedy):
            orientation = orientation_of(image)
        width, height = image.size
        if orientation >= 5:  # these swap height and width
            height, width = width, height
        grey = image.mode in ("1", "L", "LA")
        return Header(
            height=height,
            width=width,
            channels=1 if grey else 3,
            orientation=orientation,
        )


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be undone, 1 if there is none."""
    if image.format == "TIFF":  # Pillow turns these itself, and gives their size after that
        return 1
    # getexif of the base class: that of a PNG file would decode the image to look behind it
    return Image.Image.getexif(image).get(ORIENTATION, 1)


@contextlib.contextmanager
def naming(name: str, remedy: str):
    """Turn whatever Pillow raises over a damaged file into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # there is no list of what it raises
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "the file is empty, damaged or of another kind"
        raise ValueError(f"cannot read {name} as an image ({reason}); {remedy}") from error


def _refused(image: Image.Image, place: Place) -> str | None:
    """Return why an image is refused, None if it is not."""
    if image.mode.startswith(("I", "F")) or _more_than_8_bits(image, place):
        return (
            f"has more than 8 bits per channel (Pillow mode {image.mode}); convert it to an 8-bit "
            "image"
        )
    if image.mode in ("LAB", "HSV"):
        return f"has colours of another kind (Pillow mode {image.mode}); convert it to RGB"
    # MPO is what cameras write beside a JPEG's first image: previews and depths of the same picture
    if image.format != "MPO" and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", 2)
        return f"has {frames} frames; save the one that is meant as an image of its own"
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        return (
            f"has {image.width} x {image.height} pixels, more than the {most} that are safe to "
            "decode; shrink it"
        )
    return None


def _more_than_8_bits(image: Image.Image, place: Place) -> bool:
    """Tell whether Pillow would cut a colour image to 8 bits without a word."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8  # pyright: ignore[reportAttributeAccessIssue]
    if image.format == "AVIF":
        return _avif_is_deep(place)
    for tile in image.tile:  # pyright: ignore[reportAttributeAccessIssue]
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(a, str) and ";16" in a for a in arguments):  # as in "RGB;16B"
            return True
        if image.format == "PPM" and any(isinstance(a, int) and a > 255 for a in arguments):
            return True
    return False


def _avif_is_deep(place: Place) -> bool:
    """Read the flag "high_bitdepth" of the AV1 configuration box (AV1-ISOBMFF, section 2.3.3)."""
    if isinstance(place, Path):
        with place.open("rb") as file:
            start = file.read(4096)
    else:
        start = place.getvalue()[:4096]
    box = start.find(b"av1C")
    return box >= 0 and len(start) > box + 6 and bool(start[box + 6] & 0x40)
