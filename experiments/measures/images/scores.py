"""All measures of one set of images, as an evaluation reports them.

Real images are measured beside samples by the same function: held-out images stand for samples, as
many of them, so that each number has what a perfect model would score next to it.
"""

from typing import Any, NamedTuple

import numpy as np

from ...data.joint_moments import FeatureMoments, measure_moments
from ...data.streaming import evenly_spaced
from ..metrics import Proportion
from .feature_network import ImageFeatures
from .frechet import extrapolated_frechet_distance, frechet_distance
from .inception import inception_score
from .kernel import kernel_distance
from .manifolds import compare_manifolds
from .memorisation import THRESHOLD, nearest_training

SMALLEST = 20  # images; of fewer these measures say nothing
# Many eigenproblems of wide features take long: parts and groups of the extrapolation.
NARROW = {"parts": 5, "groups": 20}
WIDE = {"parts": 3, "groups": 10}
WIDTH = 512


class RealFeatures(NamedTuple):
    """The features that those of samples are compared with."""

    moments: FeatureMoments  # of the training images
    training: np.ndarray | None  # (m, d), of all or many of them; None: only the moments are known
    held_out: ImageFeatures


def image_scores(
    images: ImageFeatures, real: RealFeatures, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """Return how images compare with real ones, by name, as plain JSON.

    Args:
        images: what the network makes of n images, `SMALLEST` or more.
        real: what it makes of real ones.
        labels: the classes (n,) that the images should have, of the classes that the network knows.

    Raises:
        ValueError: there are too few images.
    """
    features = images.features
    number = len(features)
    if number < SMALLEST:
        raise ValueError(f"need {SMALLEST} or more images to compare, got {number}")
    held_out = real.held_out.features
    scores: dict[str, Any] = {
        "images": number,
        "frechet_train": frechet(features, real.moments),
        "frechet_held_out": {
            "value": frechet_distance(measure_moments(features), measure_moments(held_out))
        },
    }
    if real.training is not None:
        some = real.training[evenly_spaced(len(real.training), number)]
        scores["kernel_train"] = kernel_distance(features, some)._asdict()
        scores |= compare_manifolds(features, some)._asdict()
        nearest = nearest_training(features, real.training)
        scores["memorised"] = Proportion.of(nearest.ratio < THRESHOLD)._asdict()
    if images.probabilities is not None:
        scores["inception_score"] = inception_score(images.probabilities)._asdict()
        if labels is not None:
            right = images.probabilities.argmax(1) == labels
            scores["accuracy"] = Proportion.of(right)._asdict()
    return scores


def real_scores(real: RealFeatures, number: int, labels: np.ndarray | None) -> dict[str, Any]:
    """Return the scores of held-out images in the place of `number` samples.

    Args:
        real: the features.
        number: how many samples they stand for; there may be fewer held-out images.
        labels: their classes; None: they are not those that the network knows.
    """
    rows = evenly_spaced(len(real.held_out.features), number)
    probabilities = real.held_out.probabilities
    images = ImageFeatures(
        features=real.held_out.features[rows],
        probabilities=None if probabilities is None else probabilities[rows],
    )
    scores = image_scores(images, real, None if labels is None else labels[rows])
    del scores["frechet_held_out"]  # of the held-out images to themselves
    return scores


def frechet(features: np.ndarray, reference: FeatureMoments) -> dict[str, float]:
    """Return the Frechet distance of n features, and with infinitely many if n allows it."""
    how = WIDE if features.shape[1] > WIDTH else NARROW
    if len(features) // (how["parts"] + 1) <= features.shape[1]:
        return {"value": frechet_distance(measure_moments(features), reference)}
    distance = extrapolated_frechet_distance(features, reference, **how)
    return {
        "value": distance.at_n,
        "infinite": distance.infinite,
        "infinite_std_error": distance.std_error,
    }


COLUMNS = {
    "FD, train": "frechet_train",
    "FD, n to infinity": "frechet_train",
    "FD, held out": "frechet_held_out",
    "1000 KID": "kernel_train",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "score": "inception_score",
    "right class": "accuracy",
    "memorised": "memorised",
}


def score_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Return the scores of several sets of images as the lines of a Markdown table."""
    shown = [title for title, name in COLUMNS.items() if any(name in row for row in rows.values())]
    lines = [f"| | n | {' | '.join(shown)} |", "|" + "---|" * (len(shown) + 2)]
    for name, row in rows.items():
        cells = " | ".join(_cell(title, row.get(COLUMNS[title])) for title in shown)
        lines.append(f"| {name} | {row['images']} | {cells} |")
    return lines


def _cell(title: str, score: Any) -> str:
    """Return a score as text."""
    if score is None:
        return ""
    if not isinstance(score, dict):
        return f"{score:.3f}"
    if title == "FD, n to infinity":
        known = "infinite" in score
        return f"{score['infinite']:.3f} ± {score['infinite_std_error']:.3f}" if known else ""
    if title == "1000 KID":
        return f"{1000 * score['value']:.2f} ± {1000 * score['std_error']:.2f}"
    if title == "score":
        return f"{score['value']:.2f}"
    if "std_error" in score:
        return f"{score['value']:.4f} ± {score['std_error']:.4f}"
    return f"{score['value']:.3f}"
