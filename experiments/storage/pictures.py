"""Pictures of samples, as PNG, and a walk from noise to data, as GIF.

Whatever the samples are, there is a picture.

Images (H, W, C) are shown as a grid, in their first three channels as red, green and blue; of two
channels blue stays black. Vectors are shown as points by their first two coordinates, and numbers
by a histogram; examples of any other shape count as vectors.
"""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..data.codec import Codec
from .writing import write_bytes

BINS = 60  # of a histogram
SIZE = 400  # pixels of a drawing


def to_uint8(x: np.ndarray, codec: Codec) -> np.ndarray:
    """Return model values (batch, H, W, C) as RGB uint8 images."""
    image = np.rint(codec.brightness(x)).astype(np.uint8)
    channels = image.shape[-1]
    if channels == 1:
        return np.repeat(image, 3, axis=-1)
    if channels == 2:
        return np.concatenate([image, np.zeros_like(image[..., :1])], axis=-1)
    return image[..., :3]


def grid(images: np.ndarray, size: int = 512) -> np.ndarray:
    """Tile uint8 images (batch, H, W, 3) into one nearly square picture.

    They are magnified by a whole factor, to about `size` pixels.
    """
    columns = max(1, math.ceil(math.sqrt(len(images))))
    rows = max(1, math.ceil(len(images) / columns))
    height, width = images.shape[1:3]
    zoom = max(1, size // max(columns * width, rows * height))
    gap = max(1, zoom // 2)
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    down = height * zoom + gap  # from one image to the next
    right = width * zoom + gap
    canvas = np.full((rows * down + gap, columns * right + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top = gap + (i // columns) * down
        left = gap + (i % columns) * right
        canvas[top : top + height * zoom, left : left + width * zoom] = image
    return canvas


def scatter(x: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Draw points (batch, 2 or more) by their first two coordinates.

    Return the picture as uint8 (height, width, 3).

    Points that are not finite are left out. `limit`: the plane is shown from -limit to limit; by
    default it holds all points.
    """
    points = _finite(x[:, :2])
    limit = _limit(points, limit)

    def draw(axes: Axes) -> None:
        axes.scatter(points[:, 0] / limit, points[:, 1] / limit, s=3, alpha=0.5, linewidths=0)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        ticks = np.linspace(-1, 1, 5)
        labels = [f"{tick * limit:.3g}" for tick in ticks]
        axes.set(xticks=ticks, xticklabels=labels, yticks=ticks, yticklabels=labels)

    return _drawing(draw)


def histogram(x: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Draw how often numbers (batch,) lie where, from -limit to limit.

    Return the picture as uint8 (height, width, 3).
    """
    numbers = _finite(x.reshape(len(x), 1))[:, 0]
    limit = _limit(numbers, limit)

    def draw(axes: Axes) -> None:
        counts, edges = np.histogram(numbers / limit, bins=BINS, range=(-1, 1))
        axes.stairs(counts, edges, fill=True)
        ticks = np.linspace(-1, 1, 5)
        axes.set(xlim=(-1, 1), xticks=ticks, xticklabels=[f"{tick * limit:.3g}" for tick in ticks])

    return _drawing(draw)


def picture(x: np.ndarray, codec: Codec, limit: float | None = None) -> np.ndarray:
    """Show samples (batch, ...): images as a grid, vectors as points, numbers as a histogram.

    Pixels that are not numbers are shown as 0, infinite ones as black or white.
    """
    x = np.asarray(x).astype(np.float64)
    if x.ndim == 4:
        return grid(to_uint8(np.nan_to_num(x, nan=0.0, posinf=1.0, neginf=-1.0), codec))
    flat = x.reshape(len(x), int(np.prod(x.shape[1:])))
    return scatter(flat, limit) if flat.shape[1] > 1 else histogram(flat, limit)


def _finite(x: np.ndarray) -> np.ndarray:
    """Return the rows (n, d) that are finite, in float64."""
    x = np.asarray(x).astype(np.float64)
    return x[np.isfinite(x).all(1)]


def _limit(x: np.ndarray, limit: float | None) -> float:
    """Return a positive limit: the given one if it is one, else one that holds all of x."""
    if limit is not None and 0 < limit < math.inf:
        return limit
    largest = float(np.abs(x).max(initial=0.0))
    return min(1.1 * largest, 1e300) if largest > 0 else 1.0


def _drawing(draw: Callable[[Axes], None]) -> np.ndarray:
    """Return what a function draws, without any window or global setting of matplotlib."""
    figure = Figure(figsize=(SIZE / 100, SIZE / 100), dpi=100, layout="constrained")
    return drawn(draw, figure)


def drawn(draw: Callable[[Axes], None], figure: Figure) -> np.ndarray:
    """Return what a function draws in the only part of a figure, as uint8 (height, width, 3)."""
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def save_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 picture (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def save_gif(path: Path, walk: np.ndarray, codec: Codec, frames: int = 40) -> None:
    """Write a walk (states, batch, ...), noise first, as an animation.

    It has about `frames` frames and rests on its last.
    """
    rows = np.unique(np.linspace(0, len(walk) - 1, frames).astype(int))
    chosen = np.asarray(walk[rows])
    chosen = np.nan_to_num(chosen.astype(np.float64), nan=0.0, posinf=1e9, neginf=-1e9)
    if chosen.ndim == 5:  # images: a wide prior's noise would be black and white without this
        extent = np.quantile(np.abs(chosen), 0.99, axis=(1, 2, 3, 4), keepdims=True)
        chosen = chosen / np.maximum(1.0, extent)
    limit = 1.65 * float(np.abs(chosen[-1]).max(initial=0.0))
    images = [Image.fromarray(picture(x, codec, limit)) for x in chosen]
    buffer = io.BytesIO()
    durations = [60] * (len(images) - 1) + [1500]
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
    )
    write_bytes(path, buffer.getvalue())
