"""A small classifier of clean images, whose last hidden layer is a space to compare images in.

For grey or colour images of 8 x 8 pixels and more; with the default width it has 0.2 million
parameters, 0.4 MB as float16. Distances in its features are comparable with each other, and with
nobody else's: papers take InceptionV3, which has seen ImageNet.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import Array

from ...run.devices import fitting_mesh
from ...run.placement import replicate, share

SMALLEST_SIDE = 8  # pixels; the network halves them twice
BATCH = 256  # images in one call


class FeatureSettings(NamedTuple):
    """What a feature network is made of."""

    shape: tuple[int, int, int]  # (height, width, channels) of an image
    num_classes: int
    width: int = 32  # channels of the first convolution
    features: int = 96  # of the last hidden layer


class ImageFeatures(NamedTuple):
    """What a network says of images."""

    features: np.ndarray  # (n, features) float32
    probabilities: np.ndarray | None  # (n, num_classes) float32; None: it knows no classes


class FeatureNetwork(nnx.Module):
    """Four convolutions, a mean over pixels, a hidden layer of features and a linear classifier.

    Args:
        settings: sizes.
        rngs: the random keys of the parameters, and of the dropout in training.

    Raises:
        ValueError: an image is smaller than 8 x 8, or a size is out of range.
    """

    def __init__(self, settings: FeatureSettings, *, rngs: nnx.Rngs):
        check_settings(settings)
        self.shape = settings.shape
        width = settings.width

        def conv(features_in: int, features_out: int, stride: int) -> nnx.Conv:
            return nnx.Conv(features_in, features_out, (3, 3), strides=stride, rngs=rngs)

        widths = (width, 2 * width, 3 * width, 4 * width)
        self.convs = nnx.List(
            [
                conv(settings.shape[-1], widths[0], 1),
                conv(widths[0], widths[1], 2),
                conv(widths[1], widths[2], 2),
                conv(widths[2], widths[3], 1),
            ]
        )
        self.norms = nnx.List(
            [nnx.GroupNorm(w, num_groups=min(8, width), rngs=rngs) for w in widths]
        )
        self.hidden = nnx.Linear(widths[3], settings.features, rngs=rngs)
        self.dense_out = nnx.Linear(settings.features, settings.num_classes, rngs=rngs)

    def features(self, x: Array) -> Array:
        """Return the features (batch, features) of images (batch, height, width, channels)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.silu(norm(conv(x)))
        return nnx.silu(self.hidden(x.mean((1, 2))))

    def __call__(self, x: Array) -> Array:
        """Return the logits (batch, num_classes) of images in model range, about [-1, 1]."""
        return self.dense_out(self.features(x))


def new_network(settings: FeatureSettings, seed: int) -> FeatureNetwork:
    """Return a network with random weights, made by one program.

    Raises:
        ValueError: as `FeatureNetwork`.
    """
    return nnx.jit(lambda: FeatureNetwork(settings, rngs=nnx.Rngs(seed)))()


def check_settings(settings: FeatureSettings) -> None:
    """Raise a ValueError unless a network can have these sizes."""
    shape = tuple(settings.shape)
    if len(shape) != 3 or min(shape[:2]) < SMALLEST_SIDE or shape[2] < 1:
        raise ValueError(
            f"need images (height, width, channels) of {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels or "
            f"more, got shape {shape}"
        )
    if settings.num_classes < 2:
        raise ValueError(
            f"features are learned from two or more classes, got {settings.num_classes}; take data "
            "with labels"
        )
    if settings.features < 1 or settings.width < 1 or settings.width % min(8, settings.width):
        raise ValueError(
            "need one or more features, and a width below 8 or divisible by 8, got "
            f"{settings.features} features and width {settings.width}"
        )


def extract_features(network: FeatureNetwork, x: np.ndarray) -> ImageFeatures:
    """Return features and class probabilities of images, in batches of one size.

    Args:
        network: the network.
        x: images in model range (n, height, width, channels), float. Those of a data set with grey
            levels are `codec.expected(raw)`, and so are samples: decode them first.

    Raises:
        ValueError: the images have another shape than the network is for, are none, or are not
            finite.
    """
    x = np.asarray(x)
    if x.shape[1:] != tuple(network.shape) or not len(x):
        raise ValueError(f"need images (n, {network.shape}), one or more, got shape {x.shape}")
    if x.dtype.kind != "f" or not np.isfinite(x).all():
        raise ValueError(
            f"need finite images in model range as floats, got {x.dtype}; grey levels become such "
            "by `codec.expected`"
        )
    mesh = fitting_mesh(BATCH)
    graph, weights = nnx.split(network)
    weights = replicate(mesh, weights)
    features = []
    probabilities = []
    for first in range(0, len(x), BATCH):
        block = x[first : first + BATCH].astype(np.float32)
        filled = np.zeros((BATCH, *network.shape), np.float32)  # so that one program serves all
        filled[: len(block)] = block
        of_batch, shares = _apply(graph, weights, share(mesh, filled))
        features.append(np.asarray(of_batch)[: len(block)])
        probabilities.append(np.asarray(shares)[: len(block)])
    return ImageFeatures(
        features=np.concatenate(features), probabilities=np.concatenate(probabilities)
    )


@jax.jit(static_argnums=0)
def _apply(graph: nnx.GraphDef, weights: nnx.State, x: Array) -> tuple[Array, Array]:
    """Return features and probabilities of a batch."""
    network = nnx.merge(graph, weights)
    features = network.features(x)
    return features, nnx.softmax(network.dense_out(features))


def parameter_count(network: FeatureNetwork) -> int:
    """Return the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def shape_of(value: Sequence[int]) -> tuple[int, int, int]:
    """Return a shape read from a file as the tuple that it was."""
    height, width, channels = value
    return int(height), int(width), int(channels)
