"""Does an image look augmented? A classifier of augmentation, for `few_images`.

A support vector machine learns to tell training images as they are from the same images under a
random augmentation. What it says of images that it has not seen bounds what it can say of samples:
it calls a share of the held-out images augmented as they are (`floor`), and another one under
augmentations (`ceiling`). Samples of a model that does not leak are called augmented as often as
the floor, but for what else is unlike real images in them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import data
from ..measures.metrics import Proportion
from ..run.augmentation import augment, draw_augmentations

PROBABILITY = 0.12  # of each augmentation: that of Karras et al. 2022 on CIFAR-10


class Judge(NamedTuple):
    """A classifier of augmentation, and what it says of real images."""

    classifier: Any  # of scikit-learn, on rows of pixels
    floor: Proportion  # of held-out images as they are, the share that it calls augmented
    ceiling: Proportion  # of the same images under augmentations

    def share(self, images: np.ndarray) -> Proportion:
        """Return the share of images (n, ...) in raw values that look augmented."""
        return _share(self.classifier, images)


def train_judge(training: np.ndarray, held_out: np.ndarray, codec: data.Codec) -> Judge:
    """Return a judge of augmentation.

    Args:
        training: raw images (n, height, width, channels) that it learns from.
        held_out: those that its floor and its ceiling are measured on.
        codec: between raw and model values.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    changed = augmented_copies(training, codec, copies=1, seed=1)
    classifier = make_pipeline(StandardScaler(), SVC(C=10.0))
    rows = np.concatenate([_rows(training), _rows(changed)])
    classifier.fit(rows, np.arange(len(rows)) >= len(training))
    return Judge(
        classifier=classifier,
        floor=_share(classifier, held_out),
        ceiling=_share(classifier, augmented_copies(held_out, codec, copies=4, seed=2)),
    )


def augmented_copies(
    images: np.ndarray, codec: data.Codec, *, copies: int, seed: int, only: bool = True
) -> np.ndarray:
    """Return copies (copies * n, ...) of raw images under random augmentations, in raw values.

    Args:
        images: (n, height, width, channels).
        codec: between raw and model values.
        copies: of each image.
        seed: of the augmentations.
        only: every copy is augmented. Otherwise as many stay as they are as in training.
    """
    repeated = np.tile(images, (copies, 1, 1, 1))
    numbers = random_augmentations(len(repeated), seed=seed, only=only)
    values = codec.expected(repeated).astype(np.float32)
    return codec.decode(augment(jnp.asarray(values), numbers))


def random_augmentations(count: int, *, seed: int, only: bool = True) -> jax.Array:
    """Return the numbers of random augmentations (count, 9), of which none is zeros if `only`."""
    draws = draw_augmentations(jax.random.key(seed), 4 * count, PROBABILITY)
    if not only:
        return draws[:count]
    return draws[np.flatnonzero(np.asarray(draws != 0).any(axis=1))[:count]]


def _share(classifier: Any, images: np.ndarray) -> Proportion:
    """Return the share of raw images (n, ...) that a classifier calls augmented."""
    return Proportion.of(classifier.predict(_rows(images)))


def _rows(images: np.ndarray) -> np.ndarray:
    """Return images as rows (n, pixels), in float64."""
    return np.asarray(images, np.float64).reshape(len(images), -1)
