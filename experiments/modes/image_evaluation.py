"""The part of an evaluation that looks at images as papers do: in features, and for copies."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from .. import data
from ..errors import RunError
from ..measures.images.extractor import Extractor, open_extractor
from ..measures.images.memorisation import (
    THRESHOLD,
    draw_nearest_in_split,
    nearest_in_split,
)
from ..measures.images.real_features import features_of, measure_real
from ..measures.images.scores import SMALLEST, RealFeatures, image_scores, real_scores
from ..measures.metrics import Proportion
from ..run.messages import say
from ..storage.labelled_rows import labelled
from ..storage.pictures import save_png, to_uint8

REFERENCE = "reference"  # the folder of a run that keeps features of real images
COMPARED = 1000  # samples that are compared with every training image, pixel by pixel
NEAREST = "nearest.png"
PICTURE = "evaluation.png"
SHOWN = 20  # images of each sampler in the picture
PART = 1024  # images in memory as floats


class FeatureComparison(NamedTuple):
    """What samples are compared with in features."""

    extractor: Extractor
    real: RealFeatures
    labels: np.ndarray | None  # classes of the held-out images; None: the network knows other ones

    def scores(self, fake: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
        """Return the scores of raw samples (n, ...) of these classes (None: of any)."""
        parts = np.split(fake, range(PART, len(fake), PART))
        features = features_of(self.extractor, parts)
        return image_scores(features, self.real, None if self.labels is None else labels)

    def floor(self, number: int) -> dict[str, Any]:
        """Return the scores of held-out images in the place of `number` samples."""
        return real_scores(self.real, number, self.labels)


def compare_features(
    config: ConfigDict, workdir: Path, dataset: data.DataSet, extractor: Extractor | None
) -> FeatureComparison | None:
    """Return what samples are compared with in features; None where they are not.

    Args:
        config: of the run.
        workdir: its directory, which keeps the features of training images.
        dataset: the real images.
        extractor: the caller's own; None: what `config.eval.features` names.

    Raises:
        RunError: the network or the file of features cannot be used, or there are too few images.
    """
    settings = config.eval
    if extractor is None:
        extractor = open_extractor(settings.features, dataset.shape, dataset.codec)
    if extractor is None:
        return None
    sizes = {
        "eval.number": settings.number,
        "eval.split": len(dataset.source(settings.split)),
        "eval.train_split": len(dataset.source(settings.train_split)),
    }
    for name, size in sizes.items():
        if size < SMALLEST:
            raise RunError(
                f"config.{name} gives {size} images, but features are compared of {SMALLEST} or "
                "more; set config.eval.features=none to compare pixels alone"
            )
    splits = (settings.train_split, settings.split)
    folder = workdir / REFERENCE
    real, labels = measure_real(extractor, dataset, splits, folder, settings.reference)
    known = extractor.knows_classes(config.data)
    return FeatureComparison(extractor=extractor, real=real, labels=labels if known else None)


def memorised_pixels(
    fake: np.ndarray, dataset: data.DataSet, split: str, folder: Path
) -> dict[str, Any]:
    """Return how many of the first samples are copies; draw those that are nearest to being one.

    Args:
        fake: raw samples (n, ...).
        dataset: the real images.
        split: that was trained on.
        folder: receives the picture.
    """
    some = fake[:COMPARED]
    nearest = nearest_in_split(some, dataset, split)
    try:
        draw_nearest_in_split(folder / NEAREST, some, dataset, split, nearest)
    except Exception as error:  # whatever a library of pictures raises: the numbers are kept
        say(f"no picture of the nearest training images ({type(error).__name__}: {error})")
    return {
        "samples": len(some),
        "copies": nearest.copies,
        "threshold": THRESHOLD,
        **Proportion.of(nearest.ratio < THRESHOLD)._asdict(),
    }


def draw_rows(path: Path, rows: dict[str, np.ndarray], codec: data.Codec) -> None:
    """Draw rows of raw images (number, ...) with their names; nothing if they are no images."""
    if any(images.ndim != 4 for images in rows.values()):
        return
    try:
        shown = {name: to_uint8(codec.expected(raw), codec) for name, raw in rows.items()}
        save_png(path, labelled(shown))
    except Exception as error:  # whatever a library of pictures raises: the numbers are kept
        say(f"no picture of the samplers ({type(error).__name__}: {error})")
