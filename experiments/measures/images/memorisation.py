r"""Are samples copies of training images?

A sample is compared with its nearest and second nearest training image, in pixels or in features.
Their ratio :math:`d_1 / d_2` is near 1 for a new image, which lies no closer to one training image
than to others, and near 0 for a copy. Gu et al. 2023 (arXiv:2310.02664) call a sample memorised
where it is below 1/3. Carlini et al. 2023 (arXiv:2301.13188, section 5) divide by the mean distance
to the 50 nearest instead, with the same intent.

Two limits of the ratio: a training image that occurs twice in the data hides its copies, as both
distances are alike then; and real images of a narrow class have low ratios too, so that the share
among held-out images belongs beside that among samples.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ... import data
from ...storage.writing import write_bytes
from ..neighbours import k_nearest

THRESHOLD = 1 / 3  # Gu et al. 2023
BLOCK = 2**24  # numbers of training images in memory at once


class Memorisation(NamedTuple):
    """The two nearest training images of each sample."""

    distance: np.ndarray  # (n,) to the nearest one
    second: np.ndarray  # (n,) to the second nearest one
    index: np.ndarray  # (n,) the place of the nearest one

    @property
    def ratio(self) -> np.ndarray:
        """Return the nearest over the second nearest distance, (n,); an exact copy has 0."""
        safe = np.where(self.distance > 0, self.second, 1.0)
        return self.distance / safe

    @property
    def copies(self) -> int:
        """Return how many samples equal a training image exactly."""
        return int(np.sum(self.distance == 0))

    def share(self, threshold: float = THRESHOLD) -> float:
        """Return the share of samples whose ratio is below a threshold."""
        return float(np.mean(self.ratio < threshold))


def nearest_training(samples: np.ndarray, training: np.ndarray) -> Memorisation:
    """Return the two nearest training images of each sample, as images or as features.

    Args:
        samples: (n, ...), pixels in the same units as the training images, or features.
        training: (m, ...), two or more.

    Raises:
        ValueError: the shapes differ, there are fewer than two training images, or some values are
            not finite.
    """
    neighbours = k_nearest(samples, training, k=2)
    return Memorisation(
        distance=neighbours.distance[:, 0],
        second=neighbours.distance[:, 1],
        index=neighbours.index[:, 0],
    )


def nearest_in_split(samples: np.ndarray, dataset: data.DataSet, split: str) -> Memorisation:
    """Return the two nearest images of a split to each sample, which is read block by block.

    Args:
        samples: raw values (n, ...).
        dataset: the data set.
        split: its split, with two or more examples.

    Raises:
        ValueError: as `nearest_training`.
    """
    size = len(dataset.source(split))
    if size < 2:
        raise ValueError(f"need two or more training images, split {split!r} has {size}")
    found = []
    for block in data.blocks(dataset, split, values=BLOCK):
        # What is left over may be a single image.
        neighbours = k_nearest(samples, block.x, k=min(2, len(block.x)))
        found.append((neighbours.distance, block.rows[neighbours.index]))
    distance = np.concatenate([distances for distances, _ in found], axis=1)
    index = np.concatenate([indices for _, indices in found], axis=1)
    order = distance.argsort(axis=1, kind="stable")
    rows = np.arange(len(samples))
    return Memorisation(
        distance=distance[rows, order[:, 0]],
        second=distance[rows, order[:, 1]],
        index=index[rows, order[:, 0]],
    )


def draw_nearest_in_split(
    path: Path,
    samples: np.ndarray,
    dataset: data.DataSet,
    split: str,
    memorisation: Memorisation,
    count: int = 8,
) -> None:
    """Draw what `draw_nearest` draws, with raw samples and the images of a split.

    The measurement is of these samples, by `nearest_in_split`.
    """
    chosen = np.argsort(memorisation.ratio, kind="stable")[:count]
    images = [block.x for block in data.blocks(dataset, split, memorisation.index[chosen])]
    codec = dataset.codec

    def grey_levels(raw: np.ndarray) -> np.ndarray:
        return np.rint(codec.brightness(codec.expected(raw))).astype(np.uint8)

    shown = Memorisation(
        distance=memorisation.distance[chosen],
        second=memorisation.second[chosen],
        index=np.arange(len(chosen)),
    )
    nearest = grey_levels(np.concatenate(images))
    draw_nearest(path, grey_levels(samples[chosen]), nearest, shown, count)


def draw_nearest(
    path: Path,
    samples: np.ndarray,
    training: np.ndarray,
    memorisation: Memorisation,
    count: int = 8,
) -> None:
    """Draw the samples of the lowest ratios above their nearest training images, as a PNG file.

    Args:
        path: the file.
        samples: grey levels 0 ... 255 (n, height, width, 1 or 3), uint8.
        training: images of the same shape.
        memorisation: of these samples and training images; it may have been measured in features.
        count: the most pairs that are shown.

    Raises:
        ValueError: the images are not of this kind, or the measurement is of other ones.
    """
    for name, images in (("samples", samples), ("training images", training)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"need {name} as uint8 (n, height, width, 1 or 3), got {images.dtype} of shape "
                f"{images.shape}; a codec's `brightness` makes grey levels of model values"
            )
    if len(memorisation.index) != len(samples) or memorisation.index.max() >= len(training):
        raise ValueError(
            f"the measurement is of {len(memorisation.index)} samples and of training images up to "
            f"{memorisation.index.max()}, but there are {len(samples)} and {len(training)}"
        )
    ratio = memorisation.ratio
    chosen = np.argsort(ratio, kind="stable")[:count]
    figure = Figure(figsize=(1.2 * len(chosen) + 0.6, 3.0), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(chosen), squeeze=False)
    for column, sample in enumerate(chosen):
        _show(axes[0, column], samples[sample])
        _show(axes[1, column], training[memorisation.index[sample]])
        axes[0, column].set_title(f"{ratio[sample]:.2f}", fontsize=9)
    axes[0, 0].set_ylabel("sample", fontsize=9)
    axes[1, 0].set_ylabel("nearest", fontsize=9)
    figure.suptitle("nearest / second nearest distance", fontsize=9)
    write_bytes(path, _png(figure))


def _show(axes, image: np.ndarray) -> None:
    """Show an image without ticks."""
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])


def _png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
