"""Pictures of samples: a grid of images or a cloud of points, as PNG, and a walk from noise to data as GIF."""

import io
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from .data import unscale
from .writing import write_bytes

os.environ.setdefault("MPLBACKEND", "Agg")  # a notebook has chosen its own
from matplotlib import pyplot as plt  # noqa: E402  (the backend has to be chosen first)


def to_uint8(x: np.ndarray, levels: int | None) -> np.ndarray:
    """Return model values (batch, H, W, C) as RGB uint8 images."""
    grey = (
        np.asarray(unscale(x, levels), np.float64) * (255 / (levels - 1))
        if levels
        else (np.clip(x, -1, 1) + 1) * 127.5
    )
    image = np.rint(grey).astype(np.uint8)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def grid(images: np.ndarray, size: int = 512) -> np.ndarray:
    """Tile uint8 images (batch, H, W, 3) into one nearly square picture, magnified by a whole factor to about `size` pixels."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[1:3]
    zoom = max(1, size // (columns * width))
    gap = max(1, zoom // 2)
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    canvas = np.full(
        (rows * (height * zoom + gap) + gap, columns * (width * zoom + gap) + gap, 3), 255, np.uint8
    )
    for i, image in enumerate(images):
        top, left = (
            (gap + (i // columns) * (height * zoom + gap)),
            gap + (i % columns) * (width * zoom + gap),
        )
        canvas[top : top + height * zoom, left : left + width * zoom] = image
    return canvas


def scatter(x: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Draw points (batch, 2 or more) by their first two coordinates; return the picture as uint8 (height, width, 3)."""
    limit = limit or 1.1 * float(np.abs(x[:, :2]).max())
    figure, axes = plt.subplots(figsize=(4, 4), dpi=100, layout="constrained")
    axes.scatter(x[:, 0], x[:, 1], s=3, alpha=0.5, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return np.asarray(Image.open(buffer).convert("RGB"))


def picture(x: np.ndarray, levels: int | None, limit: float | None = None) -> np.ndarray:
    """Show samples (batch, ...): images as a grid, vectors as points."""
    x = np.nan_to_num(np.asarray(x), nan=0.0)
    return grid(to_uint8(x, levels)) if x.ndim == 4 else scatter(x, limit)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 picture (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def save_gif(path: Path, walk: np.ndarray, levels: int | None, frames: int = 40) -> None:
    """Write a walk (states, batch, ...), noise first, as an animation of about `frames` frames that rests on its last."""
    chosen = walk[np.unique(np.linspace(0, len(walk) - 1, frames).astype(int))]
    if (
        chosen.ndim == 5
    ):  # images: bring each state to the range of the data, or noise of a wide prior would be black and white
        chosen = chosen / np.maximum(
            1.0, np.quantile(np.abs(chosen), 0.99, axis=(1, 2, 3, 4), keepdims=True)
        )
    limit = 1.1 * float(np.abs(chosen[-1]).max()) * 1.5
    images = [Image.fromarray(picture(x, levels, limit)) for x in chosen]
    buffer = io.BytesIO()
    durations = [60] * (len(images) - 1) + [1500]
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
    )
    write_bytes(path, buffer.getvalue())
