r"""Diffusion transformer: an image as a sequence of patches.

It is that of Peebles and Xie 2023 (arXiv:2212.09748). Each block normalises without parameters and
is steered by the embedding e of noise level and label (adaLN-zero):

.. math:: h \leftarrow h + g_1 \odot \mathrm{attention}((1 + s_1) \odot \mathrm{norm}(h) + b_1),

.. math:: h \leftarrow h + g_2 \odot \mathrm{mlp}((1 + s_2) \odot \mathrm{norm}(h) + b_2),

with :math:`(b_1, s_1, g_1, b_2, s_2, g_2) = W\,\mathrm{silu}(e)`, where W starts at zero, so that
every block begins as the identity.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .attention import Attention, check_kernel
from .computing import compute_type, run
from .conditions import ConditionSizes, with_image, with_last
from .embedding import SINUSOIDS, Conditioning, check_state, waves
from .settings import check_above, check_at_least, check_dropout

xavier = nnx.initializers.xavier_uniform()
zeros = nnx.initializers.zeros
SINUSOIDS_OF_NOISE = 256  # whatever the width, as published


class Modulated(nnx.Module):
    """Normalise each token without parameters, then scale by 1 + s and shift by b, in float32."""

    def __call__(self, h: Array, shift: Array, scale: Array) -> Array:
        """Return tokens like h (batch, tokens, width); shift and scale are (batch, width)."""
        wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return (normal * (1 + scale[:, None]) + shift[:, None]).astype(h.dtype)


class DiTBlock(nnx.Module):
    """Self-attention and a perceptron, both steered by the embedding.

    Args:
        width: features of a token and of the embedding.
        heads: number of heads of attention; it divides the width.
        mlp_ratio: features inside the perceptron, as a multiple of the width.
        dropout: fraction of the features inside the perceptron that training drops.
        dtype: type of the computation; None: that of parameters and input.
        attention: a kernel of `Attention`.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        dtype: Any,
        *,
        attention: str = "plain",
        rngs: nnx.Rngs,
    ):
        hidden = round(mlp_ratio * width)
        linear = partial(nnx.Linear, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.attention = Attention(attention)
        self.norm = Modulated()
        self.steer = nnx.Linear(width, 6 * width, kernel_init=zeros, rngs=rngs)
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.dense0 = linear(width, hidden)
        self.dropout = nnx.Dropout(dropout)
        self.dense1 = linear(hidden, width)

    def __call__(self, h: Array, emb: Array, rngs: nnx.Rngs | None) -> Array:
        """Map tokens (batch, tokens, width) with an embedding (batch, width) to the next ones."""
        b1, s1, g1, b2, s2, g2 = jnp.split(self.steer(emb), 6, axis=-1)
        mixed = self._mixed(self.norm(h, b1, s1))
        h = h + g1[:, None].astype(h.dtype) * self.out(mixed)
        inner = nnx.gelu(self.dense0(self.norm(h, b2, s2)), approximate=True)
        inner = self.dropout(inner, rngs=rngs)
        return h + g2[:, None].astype(h.dtype) * self.dense1(inner)

    def _mixed(self, h: Array) -> Array:
        """Return the values of normalised tokens (batch, tokens, width), mixed by attention."""
        batch, tokens, width = h.shape
        parts = jnp.split(self.qkv(h), 3, axis=-1)
        q, k, v = (part.reshape(batch, tokens, self.heads, -1) for part in parts)
        return self.attention(q, k, v).reshape(batch, tokens, width)


class DiT(nnx.Module):
    """Transformer for images of `shape` (height, width, channels), cut into squares.

    Published are S, B, L and XL with (width, depth, heads) = (384, 12, 6), (768, 12, 12),
    (1024, 24, 16) and (1152, 28, 16). With `num_classes` > 0 the network takes labels
    0..num_classes, of which the last means "no label"; with `context` > 0 vectors of that many
    features, or sets of them; with `cond_channels` > 0 images, as further channels of its input;
    see `models.conditions`.

    Args:
        shape: (height, width, channels) of an image.
        patch: height and width of a square, in pixels.
        width: features of a token.
        depth: number of blocks.
        heads: number of heads of attention.
        mlp_ratio: features inside the perceptron of a block, as a multiple of the width.
        dropout: fraction of these that training drops.
        num_classes: number of classes; 0 for a network without labels.
        context: features of a context, a vector or a set of vectors; 0 for a network without.
        cond_channels: channels of an image that is a condition; 0 for a network without.
        augmentation: numbers that describe an augmentation; 0 for a network that is not told of
            any.
        self_conditioning: take the last estimate of the clean data as further channels.
        embedding: how the noise input is embedded, a name of `EMBEDDINGS`.
        attention: "plain", or "cudnn" for the fused kernel of NVIDIA GPUs, which needs dtype
            "bfloat16"; see `Attention`.
        dtype: type of the computation, "float32" or "bfloat16". Parameters, normalisation,
            embedding and output stay float32.
        remat: keep only the outputs of the blocks for the gradient and compute the rest again.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: a setting is out of range, or does not fit the shape or another setting.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        num_classes: int = 0,
        context: int = 0,
        cond_channels: int = 0,
        augmentation: int = 0,
        self_conditioning: bool = False,
        embedding: str = "log_noise",
        attention: str = "plain",
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_squares(tuple(shape), patch)
        check_at_least(0, depth=depth)
        check_above(0, mlp_ratio=mlp_ratio)
        check_dropout(dropout)
        check_heads(width, heads)
        tokens = (shape[0] // patch) * (shape[1] // patch)
        check_kernel(attention, dtype, tokens, width // heads)
        self.shape = tuple(shape)
        self.num_classes = num_classes
        self.condition_sizes = ConditionSizes(
            label=num_classes,
            context=context,
            image=cond_channels,
            augmentation=augmentation,
        )
        self.condition_sizes.check()
        self.self_conditioning = self_conditioning
        self.patch = patch
        self.remat = remat
        self.conditioning = Conditioning(
            SINUSOIDS_OF_NOISE,
            width,
            embedding=embedding,
            num_classes=num_classes,
            kernel_init=nnx.initializers.normal(0.02),
            label_into="embedding",
            context=context,
            augmentation=augmentation,
            rngs=rngs,
        )
        values = patch * patch * shape[2]  # in a square
        compute = compute_type(dtype)
        block = partial(DiTBlock, attention=attention, rngs=rngs)
        values_in = values + patch * patch * cond_channels + values * self_conditioning
        self.dense_in = nnx.Linear(values_in, width, kernel_init=xavier, dtype=compute, rngs=rngs)
        self.blocks = nnx.List(
            [block(width, heads, mlp_ratio, dropout, compute) for _ in range(depth)]
        )
        self.norm_out = Modulated()
        self.steer = nnx.Linear(width, 2 * width, kernel_init=zeros, rngs=rngs)
        self.dense_out = nnx.Linear(width, values, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: Any = None,
        last: Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Map noisy images to an array of their shape.

        Args:
            x: (batch, height, width, channels).
            c_noise: noise inputs (batch,).
            cond: labels (batch,), contexts (batch, features) or (batch, members, features), images
                (batch, height, width, channels), a dictionary of several, or None; see
                `models.conditions`.
            last: with self-conditioning, the last estimate of the clean data, like x; None: zeros.
            rngs: with a key of "dropout", for a network in training that has dropout.

        Raises:
            ValueError: an argument has another shape or type, or labels are out of range.
        """
        check_state(x, c_noise, self.shape)
        given = self.condition_sizes.read(cond, x)
        emb = self.conditioning(c_noise, given.label, given.context, given.augmentation)
        emb = nnx.silu(emb)
        inputs = with_image(x, given.image, self.condition_sizes.image)
        inputs = with_last(x, inputs, last, self.self_conditioning)
        h = self.dense_in(patches(inputs, self.patch))
        rows, columns = (n // self.patch for n in self.shape[:2])
        h = h + positions(rows, columns, h.shape[-1]).astype(h.dtype)[None]
        for block in self.blocks:
            h = run(block, h, emb, rngs, remat=self.remat)
        shift, scale = jnp.split(self.steer(emb), 2, axis=-1)
        h = self.norm_out(h.astype(jnp.promote_types(h.dtype, jnp.float32)), shift, scale)
        return pixels(self.dense_out(h), self.shape, self.patch)


def check_squares(shape: tuple[int, ...], patch: int) -> None:
    """Raise a ValueError unless images of `shape` can be cut into squares of `patch` pixels."""
    if len(shape) != 3:
        raise ValueError(
            f"DiT needs shape (height, width, channels), got {shape}; use MLP for vectors"
        )
    if patch < 1 or shape[0] % patch or shape[1] % patch:
        raise ValueError(
            f"images of shape {shape} cannot be cut into squares of {patch} pixels; "
            "choose a divisor as patch"
        )


def check_heads(width: int, heads: int) -> None:
    """Raise a ValueError unless `width` features can be cut into heads and into sinusoids."""
    check_at_least(1, width=width, heads=heads)
    if width % heads or width % 4:
        raise ValueError(
            "need a width that is a multiple of 4 and of heads, "
            f"got width {width} and {heads} heads"
        )


def patches(x: Array, patch: int) -> Array:
    """Cut images (batch, height, width, channels) into squares, row by row.

    The result is (batch, squares, patch * patch * channels).
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def pixels(h: Array, shape: Sequence[int], patch: int) -> Array:
    """Undo `patches`: return images (batch, *shape)."""
    rows, columns, channels = shape[0] // patch, shape[1] // patch, shape[2]
    h = h.reshape(len(h), rows, columns, patch, patch, channels)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(len(h), *shape)


def positions(rows: int, columns: int, width: int) -> Array:
    """Return the embedding of the place of each square, (rows * columns, width).

    It has sinusoids of the column, then of the row.
    """
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    omega = SINUSOIDS["positional_open"](width // 4).astype(np.float32)
    sinusoids = [waves(jnp.asarray(a.ravel(), jnp.float32), omega) for a in (column, row)]
    return jnp.concatenate(sinusoids, axis=1)
