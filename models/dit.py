r"""Diffusion transformer (Peebles and Xie 2023, arXiv:2212.09748): an image as a sequence of patches.

Each block normalises without parameters and is steered by the embedding e of noise level and label (adaLN-zero):

.. math:: h \leftarrow h + g_1 \odot \mathrm{attention}((1 + s_1) \odot \mathrm{norm}(h) + b_1), \qquad
    h \leftarrow h + g_2 \odot \mathrm{mlp}((1 + s_2) \odot \mathrm{norm}(h) + b_2),

with :math:`(b_1, s_1, g_1, b_2, s_2, g_2) = W\,\mathrm{silu}(e)`, where W starts at zero, so that every block begins as the identity.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .attention import Attention, check_kernel
from .computing import compute_type, run
from .embedding import SINUSOIDS, Conditioning, check_inputs, waves
from .settings import check_above, check_at_least, check_dropout

xavier = nnx.initializers.xavier_uniform()
SINUSOIDS_OF_NOISE = 256  # whatever the width, as published


class Modulated(nnx.Module):
    """Normalise each token without parameters, then scale by 1 + s and shift by b; all in float32."""

    def __call__(self, h: Array, shift: Array, scale: Array) -> Array:
        wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return (normal * (1 + scale[:, None]) + shift[:, None]).astype(h.dtype)


class DiTBlock(nnx.Module):
    """Self-attention and a perceptron, both steered by the embedding."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        dtype,
        *,
        attention: str = "plain",
        rngs: nnx.Rngs,
    ):
        self.heads, hidden = heads, round(mlp_ratio * width)
        self.attention = Attention(attention)
        self.norm = Modulated()
        self.steer = nnx.Linear(width, 6 * width, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.dense0 = nnx.Linear(width, hidden, kernel_init=xavier, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.dense1 = nnx.Linear(hidden, width, kernel_init=xavier, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, emb: Array, rngs: nnx.Rngs | None) -> Array:
        b1, s1, g1, b2, s2, g2 = jnp.split(self.steer(emb), 6, axis=-1)
        batch, tokens, width = h.shape
        q, k, v = (
            a.reshape(batch, tokens, self.heads, -1)
            for a in jnp.split(self.qkv(self.norm(h, b1, s1)), 3, axis=-1)
        )
        mixed = self.attention(q, k, v).reshape(batch, tokens, width)
        h = h + g1[:, None].astype(h.dtype) * self.out(mixed)
        inner = self.dropout(
            nnx.gelu(self.dense0(self.norm(h, b2, s2)), approximate=True), rngs=rngs
        )
        return h + g2[:, None].astype(h.dtype) * self.dense1(inner)


class DiT(nnx.Module):
    """Transformer for images of `shape` (height, width, channels), cut into squares of `patch` pixels.

    Published: S, B, L and XL have (width, depth, heads) = (384, 12, 6), (768, 12, 12), (1024, 24, 16) and (1152, 28, 16).
    With `num_classes` > 0 the network takes labels 0..num_classes, the last meaning "no label".

    Args:
        embedding: how the noise input is embedded, a name of EMBEDDINGS.
        attention: "plain", or "cudnn" for the fused kernel of NVIDIA GPUs, which needs dtype bfloat16; see `Attention`.
        dtype: of the computation; parameters, normalisation, embedding and output stay float32.
        remat: keep only the blocks' outputs for the gradient and compute the rest again.
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
        embedding: str = "log_noise",
        attention: str = "plain",
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if len(shape) != 3:
            raise ValueError(
                f"DiT needs shape (height, width, channels), got {tuple(shape)}; use MLP for vectors"
            )
        if patch < 1 or shape[0] % patch or shape[1] % patch:
            raise ValueError(
                f"images of shape {tuple(shape)} cannot be cut into squares of {patch} pixels; choose a divisor as patch"
            )
        check_at_least(1, width=width, heads=heads)
        check_at_least(0, depth=depth)
        check_above(0, mlp_ratio=mlp_ratio)
        check_dropout(dropout)
        if width % heads or width % 4:
            raise ValueError(
                f"need a width that is a multiple of 4 and of heads, got width {width} and {heads} heads"
            )
        tokens = (shape[0] // patch) * (shape[1] // patch)
        check_kernel(attention, dtype, tokens, width // heads)
        self.shape, self.num_classes, self.patch, self.remat = (
            tuple(shape),
            num_classes,
            patch,
            remat,
        )
        compute = compute_type(dtype)
        normal = nnx.initializers.normal(0.02)
        self.conditioning = Conditioning(
            SINUSOIDS_OF_NOISE, width, embedding=embedding, num_classes=num_classes, kernel_init=normal, label_into="embedding", rngs=rngs
        )  # fmt: skip
        pixels = patch * patch * shape[2]
        self.dense_in = nnx.Linear(pixels, width, kernel_init=xavier, dtype=compute, rngs=rngs)
        self.blocks = nnx.List(
            [
                DiTBlock(width, heads, mlp_ratio, dropout, compute, attention=attention, rngs=rngs)
                for _ in range(depth)
            ]
        )
        self.norm_out = Modulated()
        self.steer = nnx.Linear(width, 2 * width, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.dense_out = nnx.Linear(width, pixels, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(
        self, x: Array, c_noise: Array, cond: Array | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Map x (batch, height, width, channels) at noise inputs c_noise (batch,), labels cond (batch,), to an array like x."""
        check_inputs(x, c_noise, cond, self.shape, self.num_classes)
        emb = nnx.silu(self.conditioning(c_noise, cond))
        h = self.dense_in(patches(x, self.patch))
        rows, columns = (n // self.patch for n in self.shape[:2])
        h = h + places(rows, columns, h.shape[-1]).astype(h.dtype)[None]
        for block in self.blocks:
            h = run(block, h, emb, rngs, remat=self.remat)
        shift, scale = jnp.split(self.steer(emb), 2, axis=-1)
        h = self.norm_out(h.astype(jnp.promote_types(h.dtype, jnp.float32)), shift, scale)
        return pixels(self.dense_out(h), self.shape, self.patch)


def patches(x: Array, patch: int) -> Array:
    """Cut images (batch, height, width, channels) into squares, row by row: (batch, squares, patch * patch * channels)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def pixels(h: Array, shape: Sequence[int], patch: int) -> Array:
    """Undo `patches`."""
    rows, columns, channels = shape[0] // patch, shape[1] // patch, shape[2]
    h = h.reshape(len(h), rows, columns, patch, patch, channels)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(len(h), *shape)


def places(rows: int, columns: int, width: int) -> Array:
    """Return what tells the squares apart, (rows * columns, width): sinusoids of the column, then of the row."""
    column, row = np.meshgrid(np.arange(columns), np.arange(rows))
    omega = SINUSOIDS["positional_open"](width // 4).astype(np.float32)
    return jnp.concatenate(
        [waves(jnp.asarray(a.ravel(), jnp.float32), omega) for a in (column, row)], axis=1
    )
