"""What images are compared in: a network that makes features of them, with a name of its own.

`open_extractor` finds one for a setting; in Python any function will do::

    extractor = Extractor("means of rows", {"resize": None}, extract)
    evaluate(loaded, workdir, extractor=extractor)

where `extract` takes raw images (n, height, width, channels) as the data set stores them, and
returns `ImageFeatures`, whose probabilities may be None.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ...convert.reading import checked_weights, reading
from ...convert.safetensors import read_safetensors
from ...convert.torch_file import read_torch
from ...data.codec import Codec
from ...errors import RunError
from ...run.devices import fitting_mesh
from ...run.placement import replicate, share
from ...storage.identity import digest
from .dinov2 import DINOv2Weights, class_tokens
from .dinov2_images import DEVIATION, MEAN, SIDE, prepared
from .dinov2_weights import convert_dinov2, is_dinov2
from .feature_file import DATA, DATA_SETTINGS, SavedNetwork, load_network, plain_section
from .feature_network import ImageFeatures, extract_features, shape_of
from .inception_network import SIDE as INCEPTION_SIDE
from .inception_network import InceptionWeights, convert_inception, inception, is_inception

PACKAGED = Path(__file__).with_name("fashion_mnist.npz")  # by experiments.train_features
# Trained on 28 x 28. A mean over pixels ends its convolutions, so that it takes others, too: of
# test images in a black border of 2 pixels it knows 0.8905, of those without 0.9130.
PACKAGED_SHAPES = ((28, 28, 1), (32, 32, 1))
NONE = "none"
INCEPTION_BATCH = 64  # images in one call
DINOV2_BATCH = 32


class Extractor(NamedTuple):
    """A network that makes features of raw images."""

    name: str  # with the hash of its weights
    preprocessing: dict[str, Any]  # how raw images become what it sees, as plain JSON
    extract: Callable[[np.ndarray], ImageFeatures]  # of raw images (n, height, width, channels)
    classes_of: str = ""  # the data set whose classes its probabilities are of; "": of other ones
    data_settings: Mapping[str, Any] = MappingProxyType({})  # of that data set, those that matter

    def knows_classes(self, section: ConfigDict) -> bool:
        """Return whether its probabilities are of the classes of a configuration's data set."""
        plain = plain_section(section)
        same = all(plain.get(name) == value for name, value in self.data_settings.items())
        return same and self.classes_of == plain["name"]


def open_extractor(setting: str, shape: tuple[int, ...], codec: Codec) -> Extractor | None:
    """Return what a setting names, None where images are to be compared in pixels alone.

    Args:
        setting: a file of `experiments.train_features` (.npz); one of the published weights of
            Inception or DINOv2 (.pth, or .safetensors); "none"; or "" for the network of the
            package, which is for grey images of 28 x 28 or 32 x 32.
        shape: of the images.
        codec: of their raw values.

    Raises:
        RunError: the file cannot be read, or its network is for other images.
    """
    if setting == NONE:
        return None
    if not setting:
        if shape not in PACKAGED_SHAPES:
            return None
        saved = load_network(PACKAGED)
        saved.network.shape = shape_of(shape)
        return _of_network(saved, codec)
    path = Path(setting).expanduser()
    if path.suffix != ".npz":
        return _of_published(path, shape, codec)
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
        classes_of=saved.facts.get(DATA, ""),
        data_settings=saved.facts.get(DATA_SETTINGS, {}),
    )


def _of_published(path: Path, shape: tuple[int, ...], codec: Codec) -> Extractor:
    """Return the extractor of a published network's weights, which say themselves whose they are.

    Raises:
        RunError: the file cannot be read, is of another network, or cannot look at such images.
    """
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise RunError(
            f"{path} would be read as the weights of Inception or DINOv2, which make features of "
            f"images (height, width, 1 or 3), but the data have shape {shape}; set "
            "config.eval.features=none"
        )
    with reading(path, "file of weights"):
        read = read_safetensors if path.suffix == ".safetensors" else read_torch
        state = checked_weights(read(path), "the file")
        network = next((network for network in PUBLISHED if network.recognises(state)), None)
        if network is None:
            raise RunError(
                f"the weights are of neither Inception nor DINOv2, but of a network that has "
                f"{next(iter(state))!r}; config.eval.features takes pt_inception-2015-12-05, and "
                "the published files of DINOv2"
            )
        weights = network.convert(state)
    return network.extractor(weights, digest(path.read_bytes())[:16], codec)


def _of_inception(weights: InceptionWeights, name: str, codec: Codec) -> Extractor:
    """Return the extractor of Inception's weights."""
    mesh = fitting_mesh(INCEPTION_BATCH)
    weights = replicate(mesh, weights)

    def extract(images: np.ndarray) -> ImageFeatures:
        features = []
        probabilities = []
        for block, size in _colour_blocks(images, INCEPTION_BATCH, codec):
            output = inception(weights, share(mesh, block.astype(np.float32)))
            features.append(np.asarray(output.features)[:size])
            probabilities.append(np.asarray(jax.nn.softmax(output.logits))[:size])
        return ImageFeatures(np.concatenate(features), np.concatenate(probabilities))

    return Extractor(
        name=f"inception {name}",
        preprocessing={"range": [0, 255], "resize": f"TensorFlow 1, bilinear, {INCEPTION_SIDE}"},
        extract=extract,
    )


def _of_dinov2(weights: DINOv2Weights, name: str, codec: Codec) -> Extractor:
    """Return the extractor of DINOv2's weights, whose images are prepared as in arXiv:2306.04675."""
    mesh = fitting_mesh(DINOV2_BATCH)
    weights = replicate(mesh, weights)

    def extract(images: np.ndarray) -> ImageFeatures:
        features = []
        for block, size in _colour_blocks(images, DINOV2_BATCH, codec):
            tokens = class_tokens(weights, share(mesh, prepared(block)))
            features.append(np.asarray(tokens)[:size])
        return ImageFeatures(np.concatenate(features), None)

    depth, width = weights.blocks.scale1.shape
    return Extractor(
        name=f"dinov2 of {depth} blocks of {width} channels, {name}",
        preprocessing={
            "range": [0, 255],
            "resize": f"Pillow, bicubic, 8 bits, {SIDE}",
            "mean": MEAN,
            "deviation": DEVIATION,
        },
        extract=extract,
    )


def _colour_blocks(images: np.ndarray, batch: int, codec: Codec) -> Iterator[tuple[Any, int]]:
    """Yield raw images as (batch, height, width, 3) of 0 ... 255, and how many of them there are.

    What is left of the last block is filled with zeros, so that one program serves all.
    """
    for first in range(0, len(images), batch):
        block = codec.brightness(codec.expected(images[first : first + batch]))
        filled = np.zeros((batch, *block.shape[1:3], 3))
        filled[: len(block)] = block
        yield filled, len(block)


class _Published(NamedTuple):
    """How the weights of a published network become an extractor."""

    recognises: Callable[[Mapping[str, np.ndarray]], bool]
    convert: Callable[[Mapping[str, np.ndarray]], Any]
    extractor: Callable[[Any, str, Codec], Extractor]


PUBLISHED = (
    _Published(recognises=is_inception, convert=convert_inception, extractor=_of_inception),
    _Published(recognises=is_dinov2, convert=convert_dinov2, extractor=_of_dinov2),
)
