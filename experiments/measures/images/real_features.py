"""The features of real images that samples are compared with: measured once, and kept in a file."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ... import data
from ...data.joint_moments import FeatureMoments, measure_moments, merge
from ...data.streaming import evenly_spaced
from ...run.messages import progress
from ...storage.identity import data_hash, digest
from .extractor import Extractor
from .feature_network import ImageFeatures
from .reference import Reference, load_reference, save_reference
from .scores import RealFeatures

KEPT = 60_000  # training images whose features are kept, evenly spaced; of more only the moments
HASHED = 1000  # images by which a split is known, evenly spaced


class SplitFeatures(NamedTuple):
    """What a network makes of a whole split."""

    moments: FeatureMoments  # of all images
    images: ImageFeatures  # of up to `KEPT` of them
    labels: np.ndarray  # (n,) of these


def measure_real(
    extractor: Extractor, dataset: data.DataSet, splits: tuple[str, str], folder: Path, file: str
) -> tuple[RealFeatures, np.ndarray]:
    """Return the features of training and of held-out images, and the classes of the latter.

    Args:
        extractor: the network.
        dataset: the real images.
        splits: to train on, and held out.
        folder: receives the features of the training images, under the hash of all that they
            depend on.
        file: of `save_reference`, whose features are taken for those of the training images if it
            is there, and which is written if not; "": in `folder`.

    Raises:
        RunError: a file of other features, of other images, or of images prepared in another way;
            or one that is damaged.
    """
    train, held_out = splits
    hashed = data_hash(dataset, train, limit=HASHED)
    path = Path(file).expanduser() if file else folder / _name(extractor, train, hashed)
    if path.exists():
        reference = load_reference(path, extractor.name, extractor.preprocessing, hashed)
    else:
        measured = measure_split(extractor, dataset, train)
        reference = Reference(moments=measured.moments, features=measured.images.features)
        save_reference(
            path,
            reference.moments,
            extractor.name,
            extractor.preprocessing,
            reference.features,
            hashed,
        )
    other = measure_split(extractor, dataset, held_out)
    real = RealFeatures(
        moments=reference.moments, training=reference.features, held_out=other.images
    )
    return real, other.labels


def measure_split(extractor: Extractor, dataset: data.DataSet, split: str) -> SplitFeatures:
    """Return the features of a split, which is read block by block."""
    size = len(dataset.source(split))
    kept = np.zeros(size, bool)
    kept[evenly_spaced(size, KEPT)] = True
    moments: list[FeatureMoments] = []
    features: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    with progress(size, f"features of {split}", unit="image") as bar:
        for block in data.blocks(dataset, split):
            made = extractor.extract(block.x)
            moments = [merge(*moments, measure_moments(made.features))]
            rows = kept[block.rows]
            features.append(made.features[rows])
            labels.append(block.label[rows])
            if made.probabilities is not None:
                probabilities.append(made.probabilities[rows])
            bar.update(len(block.x))
    images = ImageFeatures(
        features=np.concatenate(features),
        probabilities=np.concatenate(probabilities) if probabilities else None,
    )
    return SplitFeatures(moments=moments[0], images=images, labels=np.concatenate(labels))


def features_of(extractor: Extractor, parts: Iterable[np.ndarray]) -> ImageFeatures:
    """Return the features of raw images that come in parts."""
    made = [extractor.extract(part) for part in parts]
    known = [part.probabilities for part in made if part.probabilities is not None]
    return ImageFeatures(
        features=np.concatenate([part.features for part in made]),
        probabilities=np.concatenate(known) if known else None,
    )


def _name(extractor: Extractor, split: str, hashed: str) -> str:
    """Return the name of the file of a split's features, another one for everything else."""
    decisive = (extractor.name, sorted(extractor.preprocessing.items()), hashed)
    return f"{split}_{digest(repr(decisive).encode())[:16]}.npz"
