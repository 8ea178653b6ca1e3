"""What images are compared in: a network that makes features of them, with a name of its own.

`open_extractor` finds one for a setting; in Python any function will do::

    extractor = Extractor("dinov2 vits14", {"resize": 224}, extract)
    evaluate(loaded, workdir, extractor=extractor)

where `extract` takes raw images (n, height, width, channels) as the data set stores them, and
returns `ImageFeatures`, whose probabilities may be None.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ...data.codec import Codec
from ...errors import RunError
from ...run.devices import fitting_mesh
from ...run.placement import replicate, share
from ...storage.identity import digest
from .feature_file import SavedNetwork, load_network
from .feature_network import ImageFeatures, extract_features
from .inception_network import SIDE, inception, read_inception

PACKAGED = Path(__file__).with_name("fashion_mnist.npz")  # by experiments.train_features
NONE = "none"
INCEPTION_BATCH = 64  # images in one call


class Extractor(NamedTuple):
    """A network that makes features of raw images."""

    name: str  # with the hash of its weights
    preprocessing: dict[str, Any]  # how raw images become what it sees, as plain JSON
    extract: Callable[[np.ndarray], ImageFeatures]  # of raw images (n, height, width, channels)
    classes_of: str = ""  # the data set whose classes its probabilities are of; "": of other ones


def open_extractor(setting: str, shape: tuple[int, ...], codec: Codec) -> Extractor | None:
    """Return what a setting names, None where images are to be compared in pixels alone.

    Args:
        setting: a file of `experiments.train_features` (.npz) or of Inception's weights (.pth),
            "none", or "" for the network of the package, which is for grey images of 28 x 28.
        shape: of the images.
        codec: of their raw values.

    Raises:
        RunError: the file cannot be read, or its network is for other images.
    """
    if setting == NONE:
        return None
    if not setting:
        saved = load_network(PACKAGED)
        return _of_network(saved, codec) if shape == saved.network.shape else None
    path = Path(setting).expanduser()
    if path.suffix != ".npz":
        _check_colours(path, shape)
        return _of_inception(path, codec)
    saved = load_network(path)
    if shape != saved.network.shape:
        raise RunError(
            f"{path} makes features of images of shape {saved.network.shape}, but these have shape "
            f"{shape}; train one for them with python -m experiments.train_features"
        )
    return _of_network(saved, codec)


def _of_network(saved: SavedNetwork, codec: Codec) -> Extractor:
    """Return the extractor of a network of our own."""
    return Extractor(
        name=saved.name,
        preprocessing={"shape": list(saved.network.shape), "range": [-1, 1], "resize": None},
        extract=lambda images: extract_features(saved.network, codec.expected(images)),
        classes_of=saved.facts.get("data", ""),
    )


def _check_colours(path: Path, shape: tuple[int, ...]) -> None:
    """Raise a RunError unless Inception can look at images of a shape."""
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise RunError(
            f"{path} would be read as Inception's weights, which make features of images (height, "
            f"width, 1 or 3), but the data have shape {shape}; set config.eval.features=none"
        )


def _of_inception(path: Path, codec: Codec) -> Extractor:
    """Return the extractor of Inception's weights."""
    weights = read_inception(path)
    mesh = fitting_mesh(INCEPTION_BATCH)
    weights = replicate(mesh, weights)

    def extract(images: np.ndarray) -> ImageFeatures:
        features = []
        probabilities = []
        for first in range(0, len(images), INCEPTION_BATCH):
            block = codec.brightness(codec.expected(images[first : first + INCEPTION_BATCH]))
            colours = np.broadcast_to(block, (*block.shape[:3], 3))
            filled = np.zeros((INCEPTION_BATCH, *colours.shape[1:]), np.float32)
            filled[: len(block)] = colours
            output = inception(weights, share(mesh, filled))
            features.append(np.asarray(output.features)[: len(block)])
            probabilities.append(np.asarray(jax.nn.softmax(output.logits))[: len(block)])
        return ImageFeatures(np.concatenate(features), np.concatenate(probabilities))

    return Extractor(
        name=f"inception {digest(path.read_bytes())[:16]}",
        preprocessing={"range": [0, 255], "resize": f"TensorFlow 1, bilinear, {SIDE}"},
        extract=extract,
    )
