"""InceptionV3 with the weights that published Frechet distances are measured with.

The weights are those of the file `pt_inception-2015-12-05` of pytorch-fid and torch-fidelity, which
the user gives; nothing is downloaded. In three places the network is not that of torchvision: its
average pools do not count the padding, the last block has a maximum pool in their place, and there
are 1008 classes. Images of 0 ... 255 are resized to 299 x 299 as TensorFlow 1 did, bilinear without
filter and with pixel i of the result at place i * (old size / new size), and become
(x - 128) / 128. All arrays are (batch, height, width, channels).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ...errors import RunError
from .inception_layers import CLASSES, FEATURES, LAYERS

SIDE = 299  # pixels of an image as the network sees it
BATCH_NORM_EPS = 1e-3  # of the ported network; PyTorch's default is another one


class ConvWeights(NamedTuple):
    """A convolution with the batch norm behind it folded in."""

    kernel: Array  # (height, width, features_in, features_out)
    bias: Array  # (features_out,)


class InceptionWeights(NamedTuple):
    """All weights of the network."""

    convs: dict[str, ConvWeights]
    dense: Array  # (2048, 1008); the scores of classes have no bias


class InceptionFeatures(NamedTuple):
    """What the network says of images."""

    features: Array  # (batch, 2048), of which Frechet and kernel distances are taken
    logits: Array  # (batch, 1008), without bias, of which the inception score is taken


def is_inception(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether a state dict looks like one of InceptionV3."""
    return f"{LAYERS[0].name}.conv.weight" in state


def convert_inception(state: Mapping[str, np.ndarray]) -> InceptionWeights:
    """Return the weights of a state dict with the names of torchvision.

    Raises:
        RunError: an array is absent or has another shape.
    """
    convs = {}
    for name, features_in, features_out, kernel_size in LAYERS:
        kernel = _take(state, f"{name}.conv.weight", (features_out, features_in, *kernel_size))
        scale = _take(state, f"{name}.bn.weight", (features_out,))
        shift = _take(state, f"{name}.bn.bias", (features_out,))
        mean = _take(state, f"{name}.bn.running_mean", (features_out,))
        variance = _take(state, f"{name}.bn.running_var", (features_out,))
        scale = scale / np.sqrt(variance + BATCH_NORM_EPS)
        convs[name] = ConvWeights(
            kernel=jnp.asarray((kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0)),
            bias=jnp.asarray(shift - mean * scale),
        )
    dense = _take(state, "fc.weight", (CLASSES, FEATURES))
    return InceptionWeights(convs=convs, dense=jnp.asarray(dense.T))


def _take(state: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of a state dict in float32."""
    if name not in state or np.shape(state[name]) != shape:
        found = f"has shape {np.shape(state[name])}" if name in state else "is absent"
        raise RunError(
            f"{name} {found}, expected {shape}; take the file pt_inception-2015-12-05 of "
            "pytorch-fid, not the network of torchvision"
        )
    return np.asarray(state[name], np.float32)


@jax.jit
def inception(weights: InceptionWeights, images: Array) -> InceptionFeatures:
    """Return features and logits of images (batch, height, width, 3) of 0 ... 255.

    Raises:
        ValueError: the images have not three channels; repeat a grey one.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"need images (batch, height, width, 3), got {images.shape}; repeat a grey channel"
        )
    x = (resize(images.astype(jnp.float32)) - 128) / 128

    def conv(x: Array, name: str, stride: int = 1, padding: str = "SAME") -> Array:
        return _conv(x, weights.convs[name], stride, padding)

    x = conv(x, "Conv2d_1a_3x3", stride=2, padding="VALID")
    x = conv(x, "Conv2d_2a_3x3", padding="VALID")
    x = conv(x, "Conv2d_2b_3x3")
    x = _max_pool(x, stride=2, padding="VALID")
    x = conv(x, "Conv2d_3b_1x1")
    x = conv(x, "Conv2d_4a_3x3", padding="VALID")
    x = _max_pool(x, stride=2, padding="VALID")
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _fives(conv, x, name)
    x = _to_17(conv, x, "Mixed_6a")
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _sevens(conv, x, name)
    x = _to_8(conv, x, "Mixed_7a")
    x = _wide(conv, x, "Mixed_7b", _average_pool(x))
    x = _wide(conv, x, "Mixed_7c", _max_pool(x, stride=1, padding="SAME"))
    features = x.mean((1, 2))
    return InceptionFeatures(features=features, logits=features @ weights.dense)


def resize(images: Array) -> Array:
    """Return images (batch, height, width, channels) at 299 x 299, as TensorFlow 1 resized them."""
    rows = _interpolation(images.shape[1])
    columns = _interpolation(images.shape[2])
    precise = lax.Precision.HIGHEST
    images = jnp.einsum("ih,bhwc->biwc", rows, images, precision=precise)
    return jnp.einsum("jw,biwc->bijc", columns, images, precision=precise)


def _interpolation(size: int) -> np.ndarray:
    """Return the matrix (299, size) of linear interpolation along one axis."""
    place = np.arange(SIDE) * (size / SIDE)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, size - 1)
    fraction = place - below
    matrix = np.zeros((SIDE, size), np.float32)
    np.add.at(matrix, (np.arange(SIDE), below), 1 - fraction)
    np.add.at(matrix, (np.arange(SIDE), above), fraction)
    return matrix


def _conv(x: Array, weights: ConvWeights, stride: int, padding: str) -> Array:
    """Return a convolution, with its batch norm, behind a rectifier."""
    x = lax.conv_general_dilated(
        x,
        weights.kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(x + weights.bias[None, None, None])


def _max_pool(x: Array, stride: int, padding: str) -> Array:
    """Return the maxima over 3 x 3 pixels."""
    window, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _average_pool(x: Array) -> Array:
    """Return the means over those of 3 x 3 pixels that are inside the image."""
    window, strides = (1, 3, 3, 1), (1, 1, 1, 1)
    sums = lax.reduce_window(x, 0.0, lax.add, window, strides, "SAME")
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    counts = lax.reduce_window(ones, 0.0, lax.add, window, strides, "SAME")
    return sums / jnp.broadcast_to(counts, x.shape)


def _chain(conv, x: Array, *names: str) -> Array:
    """Return what several convolutions in a row make of x."""
    for name in names:
        x = conv(x, name)
    return x


def _join(*branches: Array) -> Array:
    """Return branches side by side."""
    return jnp.concatenate(branches, axis=-1)


def _fives(conv, x: Array, name: str) -> Array:
    """Return a block at 35 x 35."""
    triple = (f"{name}.branch3x3dbl_{i}" for i in (1, 2, 3))
    return _join(
        conv(x, f"{name}.branch1x1"),
        _chain(conv, x, f"{name}.branch5x5_1", f"{name}.branch5x5_2"),
        _chain(conv, x, *triple),
        conv(_average_pool(x), f"{name}.branch_pool"),
    )


def _to_17(conv, x: Array, name: str) -> Array:
    """Return the block from 35 x 35 to 17 x 17."""
    double = _chain(conv, x, f"{name}.branch3x3dbl_1", f"{name}.branch3x3dbl_2")
    return _join(
        conv(x, f"{name}.branch3x3", stride=2, padding="VALID"),
        conv(double, f"{name}.branch3x3dbl_3", stride=2, padding="VALID"),
        _max_pool(x, stride=2, padding="VALID"),
    )


def _sevens(conv, x: Array, name: str) -> Array:
    """Return a block at 17 x 17."""
    return _join(
        conv(x, f"{name}.branch1x1"),
        _chain(conv, x, *(f"{name}.branch7x7_{i}" for i in (1, 2, 3))),
        _chain(conv, x, *(f"{name}.branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
        conv(_average_pool(x), f"{name}.branch_pool"),
    )


def _to_8(conv, x: Array, name: str) -> Array:
    """Return the block from 17 x 17 to 8 x 8."""
    single = conv(x, f"{name}.branch3x3_1")
    seven = _chain(conv, x, *(f"{name}.branch7x7x3_{i}" for i in (1, 2, 3)))
    return _join(
        conv(single, f"{name}.branch3x3_2", stride=2, padding="VALID"),
        conv(seven, f"{name}.branch7x7x3_4", stride=2, padding="VALID"),
        _max_pool(x, stride=2, padding="VALID"),
    )


def _wide(conv, x: Array, name: str, pooled: Array) -> Array:
    """Return a block at 8 x 8, given what its pool made of x."""
    single = conv(x, f"{name}.branch3x3_1")
    double = _chain(conv, x, f"{name}.branch3x3dbl_1", f"{name}.branch3x3dbl_2")
    return _join(
        conv(x, f"{name}.branch1x1"),
        conv(single, f"{name}.branch3x3_2a"),
        conv(single, f"{name}.branch3x3_2b"),
        conv(double, f"{name}.branch3x3dbl_3a"),
        conv(double, f"{name}.branch3x3dbl_3b"),
        conv(pooled, f"{name}.branch_pool"),
    )
