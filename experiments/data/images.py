"""Image files to arrays, with Pillow."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

Place = Path | io.BytesIO

# What undoes each EXIF orientation (tag 0x0112); 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_facts(place: Place, name: str) -> tuple[tuple[int, int], int]:
    """Return ((height, width), channels) from the header of an image file, without decoding it."""
    with _open(place, name) as image:
        width, height = image.size
        turned = _orientation(image) >= 5  # orientations 5..8 swap height and width
        return ((width, height) if turned else (height, width)), 1 if image.mode in (
            "1",
            "L",
            "LA",
        ) else 3


def read_image(
    place: Place, name: str, channels: int, crop: int | None = None, size: int | None = None
) -> np.ndarray:
    """Decode an image to uint8 (H, W, channels).

    With ``crop`` the central crop x crop pixels are kept, with ``size`` the (rest of the) image is cut to its largest central square and
    resampled to size x size. Camera orientation is applied; transparent pixels become white.

    Raises:
      ValueError: the file is not a readable 8-bit image, or is smaller than the crop; it names the image.
    """
    with _open(place, name) as image:
        try:
            if (orientation := _orientation(image)) in UPRIGHT:
                image = image.transpose(UPRIGHT[orientation])
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(name, error) from error
    array = fit_image(image, name, crop, size)
    return array.reshape(*array.shape[:2], channels)


def fit_image(image: Image.Image, name: str, crop: int | None, size: int | None) -> np.ndarray:
    """Cut and resample an image as `read_image` says."""
    if crop is not None:
        if crop > min(image.size):
            raise ValueError(
                f"cannot crop {crop} x {crop} pixels from {name}, which is {image.height} x {image.width}; lower crop"
            )
        image = _centre(image, crop)
    if size is not None and image.size != (size, size):
        image = _centre(image, min(image.size)).resize(
            (size, size), Image.Resampling.BICUBIC
        )  # antialiased where it shrinks
    return np.asarray(image)


def fitted_shape(height: int, width: int, crop: int | None, size: int | None) -> tuple[int, int]:
    """Return (height, width) of what `fit_image` makes of an image."""
    side = size or crop
    return (side, side) if side else (height, width)


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _orientation(image: Image.Image) -> int:
    return Image.Image.getexif(image).get(
        0x0112, 1
    )  # of the base class: that of a PNG file would decode the image to look behind it


def _open(place: Place, name: str) -> Image.Image:
    try:
        image = Image.open(place)
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(name, error) from error
    if image.mode.startswith(("I", "F")):
        image.close()
        raise ValueError(
            f"{name} has more than 8 bits per channel (Pillow mode {image.mode}); convert it to an 8-bit image"
        )
    return image


def _unreadable(name: str, error: Exception) -> ValueError:
    return ValueError(f"cannot read {name} as an image ({error}); remove or replace it")
