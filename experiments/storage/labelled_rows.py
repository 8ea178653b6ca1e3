"""Rows of images, each with its name beside it, as one picture."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .pictures import drawn

PIXELS = 96  # a column of the picture, about
GAP = 1 / 8  # between images, over their size


def labelled(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Return rows of RGB uint8 images (number, height, width, 3), each with its name beside it."""
    number, height, width, _ = next(iter(rows.values())).shape
    zoom = max(1, PIXELS // max(height, width))
    gap = max(1, round(GAP * zoom * width))
    down, right = zoom * height + gap, zoom * width + gap
    canvas = np.full((len(rows) * down + gap, number * right + gap, 3), 255, np.uint8)
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images):
            top, left = gap + row * down, gap + column * right
            large = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
            canvas[top : top + zoom * height, left : left + zoom * width] = large

    def draw(axes: Axes) -> None:
        axes.imshow(canvas, interpolation="nearest")
        middles = gap + np.arange(len(rows)) * down + zoom * height / 2
        axes.set(xticks=[], yticks=middles, yticklabels=list(rows))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_anchor("E")  # what room there is belongs to the names

    size = (canvas.shape[1] / 100 + 2.0, canvas.shape[0] / 100 + 0.2)
    return drawn(draw, Figure(figsize=size, dpi=100, layout="constrained"))
