"""Images as DINOv2 sees them in evaluations (Stein et al. 2023, arXiv:2306.04675).

They are resized to 224 x 224 by Pillow, bicubic, in 8 bits, and have ImageNet's mean and deviation.
"""

import numpy as np
from PIL import Image

SIDE = 224  # pixels
MEAN = [0.485, 0.456, 0.406]  # of ImageNet's red, green and blue, in 0 ... 1
DEVIATION = [0.229, 0.224, 0.225]


def prepared(images: np.ndarray) -> np.ndarray:
    """Return images (n, height, width, 3) of 0 ... 255 as (n, 224, 224, 3) in float32."""
    in_bytes = np.rint(images).astype(np.uint8)
    resized = np.stack([_resized(image) for image in in_bytes])
    scaled = (resized / 255 - np.array(MEAN)) / np.array(DEVIATION)
    return scaled.astype(np.float32)


def _resized(image: np.ndarray) -> np.ndarray:
    """Return an image in bytes (height, width, 3) as (224, 224, 3)."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
