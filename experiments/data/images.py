"""Image files to arrays, with Pillow."""

import numpy as np
from PIL import Image

from .header import REMEDY, Place, naming, open_image, orientation_of

# What undoes each EXIF orientation; 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    place: Place,
    name: str,
    channels: int,
    crop: int | None = None,
    size: int | None = None,
    remedy: str = REMEDY,
) -> np.ndarray:
    """Decode an image to uint8 (H, W, channels).

    With ``crop`` only the central crop x crop pixels are used, with ``size`` what is left is
    cut to its largest central square and resampled to size x size. Camera orientation is applied;
    transparent pixels become white; palettes, CMYK and YCbCr become RGB. Colour profiles (ICC) are
    not applied: pixel values are taken as sRGB.

    Raises:
      ValueError: the file is not a readable 8-bit image of one frame, or is smaller than the crop;
          it names the image.
    """
    with open_image(place, name, remedy) as image, naming(name, remedy):
        if (orientation := orientation_of(image)) in UPRIGHT:
            image = image.transpose(UPRIGHT[orientation])
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
    array = fit_image(image, name, crop, size)
    return array.reshape(*array.shape[:2], channels)


def fit_image(image: Image.Image, name: str, crop: int | None, size: int | None) -> np.ndarray:
    """Cut and resample an image as `read_image` says."""
    if crop is not None:
        if crop > min(image.size):
            raise ValueError(
                f"cannot crop {crop} x {crop} pixels from {name}, which is {image.height} x "
                f"{image.width}; lower crop"
            )
        image = _centre(image, crop)
    if size is not None and image.size != (size, size):
        square = _centre(image, min(image.size))
        # Pillow's bicubic filter is antialiased where it shrinks.
        image = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def fitted_shape(height: int, width: int, crop: int | None, size: int | None) -> tuple[int, int]:
    """Return (height, width) of what `fit_image` makes of an image."""
    side = size or crop
    return (side, side) if side else (height, width)


def _centre(image: Image.Image, side: int) -> Image.Image:
    """Return the central square of an image."""
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
