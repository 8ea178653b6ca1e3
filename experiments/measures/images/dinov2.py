r"""DINOv2: a vision transformer, whose class token is the feature of an image (arXiv:2304.07193).

An image is cut into patches of 14 x 14 pixels. With D the width and L the number of blocks,

.. math::
    z_0 &= [c,\; p_1 E + e,\; p_2 E + e,\; \dots] + P \\
    z' &= z + \gamma_1 \, \mathrm{attention}(\mathrm{norm}(z)) \\
    z &= z' + \gamma_2 \, \mathrm{mlp}(\mathrm{norm}(z')) \qquad L \text{ times} \\
    f &= \mathrm{norm}(z_L)[0]

where c is the class token, P are learned positions (Dosovitskiy et al. 2021, arXiv:2010.11929), and
the gammas scale each channel (LayerScale, Touvron et al. 2021, arXiv:2103.17239). The multilayer
perceptron has a GELU; that of the largest network is gated (SwiGLU, arXiv:2002.05202).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

PATCH = 14  # pixels a side
HEAD = 64  # channels of a head, in each of the published networks
NORM_EPS = 1e-6  # of the published networks; PyTorch's default is another one
CUBIC = -0.75  # the cubic kernel of PyTorch's interpolation, by which positions are resampled
# The published code resamples positions to a side that is larger by this.
EXTRA = 0.1


class Norm(NamedTuple):
    """A layer norm."""

    scale: Array  # (D,)
    bias: Array  # (D,)


class Dense(NamedTuple):
    """An affine map."""

    kernel: Array  # (features_in, features_out)
    bias: Array  # (features_out,)


class Block(NamedTuple):
    """A block of the transformer; all of them have an axis of L blocks in front."""

    norm1: Norm
    attention_in: Dense  # to queries, keys and values, side by side
    attention_out: Dense
    scale1: Array  # (D,), gamma_1
    norm2: Norm
    mlp_in: Dense
    mlp_out: Dense  # of half as many channels as `mlp_in` makes, where that is gated
    scale2: Array  # (D,), gamma_2


class DINOv2Weights(NamedTuple):
    """All weights of a network, whose sizes are those of its arrays."""

    class_token: Array  # (D,)
    class_position: Array  # (D,)
    positions: Array  # (side, side, D)
    patches: Dense  # of the 14 * 14 * 3 values of a patch, channels last
    blocks: Block
    norm: Norm


@jax.jit
def class_tokens(weights: DINOv2Weights, images: Array) -> Array:
    """Return the features (batch, D) of images (batch, height, width, 3).

    Height and width are multiples of 14, and the channels have ImageNet's mean and deviation taken
    out. Positions are resampled where there is another number of patches than they were learned
    for.

    Raises:
        ValueError: the images have another shape.
    """
    if images.ndim != 4 or images.shape[1] % PATCH or images.shape[2] % PATCH:
        raise ValueError(
            f"need images (batch, height, width, 3) with sides that are multiples of {PATCH}, got "
            f"{images.shape}; resize them to 224 x 224"
        )
    patches = _dense(_patches(images), weights.patches)
    batch, rows, columns, width = patches.shape
    patches = patches + resampled(weights.positions, rows, columns)[None]
    first = weights.class_token + weights.class_position
    first = jnp.broadcast_to(first, (batch, 1, width))
    tokens = jnp.concatenate([first, patches.reshape(batch, rows * columns, width)], axis=1)

    def apply(tokens: Array, block: Block) -> tuple[Array, None]:
        return _block(tokens, block), None

    tokens, _ = lax.scan(apply, tokens, weights.blocks)
    return _norm(tokens[:, 0], weights.norm)


def _patches(images: Array) -> Array:
    """Return the values of patches (batch, rows, columns, 14 * 14 * 3)."""
    batch, height, width, channels = images.shape
    rows = height // PATCH
    columns = width // PATCH
    parts = images.reshape(batch, rows, PATCH, columns, PATCH, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)


def _block(z: Array, block: Block) -> Array:
    """Return what a block makes of tokens (batch, tokens, D)."""
    z = z + _along(block.scale1, z) * _attention(_norm(z, block.norm1), block)
    return z + _along(block.scale2, z) * _perceptron(_norm(z, block.norm2), block)


def _attention(z: Array, block: Block) -> Array:
    """Return the attention of tokens to each other, in heads of 64 channels."""
    batch, tokens, width = z.shape
    joint = _dense(z, block.attention_in).reshape(batch, tokens, 3, width // HEAD, HEAD)
    query, key, value = joint[:, :, 0], joint[:, :, 1], joint[:, :, 2]
    heads = jax.nn.dot_product_attention(query, key, value)
    return _dense(heads.reshape(batch, tokens, width), block.attention_out)


def _perceptron(z: Array, block: Block) -> Array:
    """Return the multilayer perceptron of each token, gated if its second map asks for that."""
    hidden = _dense(z, block.mlp_in)
    features = block.mlp_out.kernel.shape[-2]
    if hidden.shape[-1] == features:
        return _dense(jax.nn.gelu(hidden, approximate=False), block.mlp_out)
    gate = jax.nn.silu(hidden[..., :features])
    return _dense(gate * hidden[..., features:], block.mlp_out)


def _dense(x: Array, dense: Dense) -> Array:
    """Return an affine map of the last axis."""
    y = x @ dense.kernel
    return y + _along(dense.bias, y)


def _norm(x: Array, norm: Norm) -> Array:
    """Return x with mean 0 and variance 1 along its last axis, scaled and shifted."""
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    standard = (x - mean) / jnp.sqrt(variance + NORM_EPS)
    return standard * _along(norm.scale, x) + _along(norm.bias, x)


def _along(channels: Array, x: Array) -> Array:
    """Return values of channels (D,), repeated to the shape (..., D) of x."""
    return jnp.broadcast_to(channels, x.shape)


def resampled(positions: Array, rows: int, columns: int) -> Array:
    """Return learned positions (side, side, D) at rows x columns places, as the published code."""
    down = _cubic(positions.shape[0], rows)
    across = _cubic(positions.shape[1], columns)
    precise = lax.Precision.HIGHEST
    positions = jnp.einsum("ri,ijd->rjd", down, positions, precision=precise)
    return jnp.einsum("cj,rjd->rcd", across, positions, precision=precise)


def _cubic(size: int, places: int) -> np.ndarray:
    """Return the matrix (places, size) of cubic interpolation along one axis, without filter.

    Keys 1981 with a = -0.75, and the values at the ends repeated outside.
    """
    if size == places:
        return np.eye(size, dtype=np.float32)
    centre = (np.arange(places) + 0.5) * size / (places + EXTRA) - 0.5
    below = np.floor(centre).astype(int)
    matrix = np.zeros((places, size), np.float32)
    for offset in (-1, 0, 1, 2):
        neighbour = below + offset
        weight = _cubic_kernel(np.abs(centre - neighbour))
        np.add.at(matrix, (np.arange(places), np.clip(neighbour, 0, size - 1)), weight)
    return matrix


def _cubic_kernel(distance: np.ndarray) -> np.ndarray:
    """Return the weight of a neighbour at a distance of at most 2."""
    d = distance
    near = (CUBIC + 2) * d**3 - (CUBIC + 3) * d**2 + 1
    far = CUBIC * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, far)
