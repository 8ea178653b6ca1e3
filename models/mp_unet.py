r"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv:2312.02696, appendix B; configuration G).

Every operation keeps the expected magnitude of what passes, so that neither normalisation layers nor biases are needed:
weights are used at unit length per output, :math:`\hat w = w / \|w\|`; a sum is :math:`((1-t) a + t b) / \sqrt{(1-t)^2 + t^2}`; a
concatenation weighs its parts by the square roots of their widths; silu is divided by 0.596, its magnitude on normal input.
The encoder normalises every pixel, attention compares directions only, and what the network says at all grows from a gain of zero.
Training also replaces each weight by its `normalised` self after every step (config.optim.unit_weights): otherwise weights grow and the
effective learning rate falls.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .computing import compute_type, run
from .embedding import FOURIER, check_inputs
from .resample import conv_of_upsampled, resampler, upsample
from .settings import (
    check_at_least,
    check_attention,
    check_dropout,
    check_image_shape,
    check_widths,
)
from .unet_paths import Level

LIMIT = 256.0  # activations are clipped here, for narrow types


def unit(x: Array, axes: Sequence[int] | int) -> Array:
    """Scale `x` to root mean square 1 over `axes`, in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rms = jnp.sqrt(jnp.mean(wide**2, axes, keepdims=True) + 1e-20)  # its slope stays finite at zero
    return (wide / (1e-4 + rms)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """Return silu(x) / 0.596."""
    return nnx.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Return the weighted sum of two states of unit magnitude, at unit magnitude (eq. 88)."""
    return ((1 - t) * a + t * b) / np.float32(np.hypot(1 - t, t)).astype(a.dtype)


def mp_cat(a: Array, b: Array, t: float) -> Array:
    """Concatenate two states, each contributing its share t whatever its width (eq. 103)."""
    (na, nb), total = (
        (a.shape[-1], b.shape[-1]),
        np.sqrt((a.shape[-1] + b.shape[-1]) / ((1 - t) ** 2 + t**2)),
    )
    wa, wb = (
        np.asarray(w, a.dtype) for w in (total / np.sqrt(na) * (1 - t), total / np.sqrt(nb) * t)
    )
    return jnp.concatenate([wa * a, wb * b], axis=-1)


def normalised(params):
    """Return parameters with every weight of an `MPConv` at unit magnitude per output: what training does after each step."""

    def one(path, p):
        return (
            unit(p, tuple(range(p.ndim - 1))) if getattr(path[-1], "key", None) == "weight" else p
        )

    return jax.tree_util.tree_map_with_path(one, params)


class MPConv(nnx.Module):
    """A convolution (size > 0) or linear map (size 0) without bias, whose weights count by their direction only (eq. 47, 66)."""

    def __init__(
        self, features_in: int, features_out: int, size: int, dtype=None, *, rngs: nnx.Rngs
    ):
        shape = (size, size, features_in, features_out) if size else (features_in, features_out)
        self.weight, self.dtype = nnx.Param(jax.random.normal(rngs.params(), shape)), dtype

    def __call__(self, x: Array, gain: Array | float = 1.0, *, upsampled: bool = False) -> Array:
        """Apply to `x`, or to `x` upsampled."""
        w = self.weight[...]
        w = unit(w, tuple(range(w.ndim - 1))) * (gain / np.float32(np.sqrt(w[..., 0].size)))
        x, w = (a.astype(self.dtype or jnp.result_type(x, w)) for a in (x, w))
        if w.ndim == 2:
            return x @ w
        if upsampled:
            return conv_of_upsampled(x, w)
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class MPBlock(nnx.Module):
    """Residual block; `encoder` ones normalise what comes in. The embedding scales the inner state by 1 + gain * its linear map."""

    def __init__(
        self, features_in: int, features_out: int, emb_features: int, *, encoder: bool, resample: str = "none", attend: bool = False,
        head_features: int = 64, dropout: float = 0.0, dtype=None, rngs: nnx.Rngs,
    ):  # fmt: skip
        conv = partial(MPConv, dtype=dtype, rngs=rngs)
        self.encoder, self.resample, self.heads = (
            encoder,
            resample,
            max(features_out // head_features, 1),
        )
        self.conv0 = conv(features_out if encoder else features_in, features_out, 3)
        self.cond, self.gain = (
            MPConv(emb_features, features_out, 0, rngs=rngs),
            nnx.Param(jnp.zeros(())),
        )
        self.dropout = nnx.Dropout(dropout)
        self.conv1 = conv(features_out, features_out, 3)
        self.shortcut = conv(features_in, features_out, 1) if features_in != features_out else None
        self.qkv = conv(features_out, 3 * features_out, 1) if attend else None
        self.out = conv(features_out, features_out, 1) if attend else None

    def __call__(self, x: Array, emb: Array, rngs: nnx.Rngs | None) -> Array:
        up = self.resample == "up"
        x = x if up else resampler(self.resample)(x)
        if self.encoder:
            x = unit(x if self.shortcut is None else self.shortcut(x), -1)
        y = self.conv0(mp_silu(x), upsampled=up)
        x = upsample(x) if up else x
        told = 1 + self.cond(emb, self.gain[...])
        y = self.conv1(self.dropout(mp_silu(y * told[:, None, None].astype(y.dtype)), rngs=rngs))
        if not self.encoder and self.shortcut is not None:
            x = self.shortcut(x)
        x = mp_sum(x, y.astype(x.dtype), 0.3)
        if self.qkv is not None and self.out is not None:
            b, h, w, c = x.shape
            q, k, v = jnp.split(self.qkv(x).reshape(b, h * w, 3 * self.heads, -1), 3, axis=2)
            mixed = jax.nn.dot_product_attention(*(unit(a, -1) for a in (q, k, v)))
            x = mp_sum(x, self.out(mixed.reshape(b, h, w, c)).astype(x.dtype), 0.3)
        return jnp.clip(x, -LIMIT, LIMIT)


class MPUNet(nnx.Module):
    """EDM2's U-Net for images of `shape` (height, width, channels).

    Published for latents of (64, 64, 4): nf 128, 192, 256, 320, 384, 448 for XS, S, M, L, XL, XXL, the other settings as by default.
    With `num_classes` > 0 the network takes labels 0..num_classes, the last meaning "no label".

    Args:
        attn_resolutions: heights at which every block has attention; the first block in the middle always has.
        embedding: what the random frequencies see, a name of FOURIER; EDM2 gives log(sigma) / 4.
        dtype: of convolutions and attention; parameters and the embedding stay float32, and so does the output.
        remat: keep only the blocks' outputs for the gradient and compute the rest again.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        nf: int = 192,
        ch_mult: Sequence[int] = (1, 2, 3, 4),
        num_res_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        head_features: int = 64,
        dropout: float = 0.0,
        num_classes: int = 0,
        embedding: str = "fourier_raw",
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        levels = len(ch_mult)
        check_image_shape(tuple(shape), levels)
        check_widths(nf, ch_mult)
        check_at_least(1, num_res_blocks=num_res_blocks, head_features=head_features)
        check_dropout(dropout)
        check_attention(attn_resolutions, [shape[0] >> level for level in range(levels)])
        if embedding not in FOURIER:
            raise ValueError(f"unknown embedding {embedding!r}; choose one of {', '.join(FOURIER)}")
        if num_classes < 0:
            raise ValueError(f"need num_classes >= 0 (0 = no labels), got {num_classes}")
        self.shape, self.num_classes, self.embedding, self.remat = (
            tuple(shape),
            num_classes,
            embedding,
            remat,
        )
        widths, compute = [nf * m for m in ch_mult], compute_type(dtype)
        emb_features, channels = max(widths), shape[-1]
        self.frequencies = nnx.Param(jax.random.normal(rngs.params(), (nf,)))
        self.phases = nnx.Param(jax.random.uniform(rngs.params(), (nf,)))
        self.dense = MPConv(nf, emb_features, 0, rngs=rngs)
        self.label = MPConv(num_classes, emb_features, 0, rngs=rngs) if num_classes else None
        block = partial(
            MPBlock,
            emb_features=emb_features,
            head_features=head_features,
            dropout=dropout,
            dtype=compute,
            rngs=rngs,
        )
        attend = [shape[0] >> level in attn_resolutions for level in range(levels)]
        self.conv_in = MPConv(channels + 1, widths[0], 3, compute, rngs=rngs)
        features, kept, down, up = widths[0], [widths[0]], [], []
        for level, width in enumerate(widths):
            blocks = []
            for _ in range(num_res_blocks):
                blocks.append(block(features, width, encoder=True, attend=attend[level]))
                features = width
                kept.append(features)
            step = (
                block(features, features, encoder=True, resample="down")
                if level < levels - 1
                else None
            )
            kept += [features] if step is not None else []
            down.append(Level(blocks, step, None))
        self.middle0 = block(features, features, encoder=False, attend=True)
        self.middle1 = block(features, features, encoder=False)
        for level, width in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(num_res_blocks + 1):
                blocks.append(
                    block(features + kept.pop(), width, encoder=False, attend=attend[level])
                )
                features = width
            up.append(
                Level(
                    blocks,
                    block(features, features, encoder=False, resample="up") if level else None,
                    None,
                )
            )
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.conv_out, self.gain = (
            MPConv(features, channels, 3, rngs=rngs),
            nnx.Param(jnp.zeros(())),
        )

    def __call__(
        self, x: Array, c_noise: Array, cond: Array | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Map x (batch, height, width, channels) at noise inputs c_noise (batch,), labels cond (batch,), to an array like x."""
        check_inputs(x, c_noise, cond, self.shape, self.num_classes)
        emb, call = self.embed(c_noise, cond), partial(run, remat=self.remat)
        h = self.conv_in(
            jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        )  # the ones stand for a bias
        kept = [h]
        for level in self.down:
            for block in [*level.blocks, *([level.resample] if level.resample is not None else [])]:
                h = call(block, h, emb, rngs)
                kept.append(h)
        h = call(self.middle1, call(self.middle0, h, emb, rngs), emb, rngs)
        for level in self.up:
            for block in level.blocks:
                h = call(block, mp_cat(h, kept.pop(), 0.5), emb, rngs)
            h = h if level.resample is None else call(level.resample, h, emb, rngs)
        return self.conv_out(h.astype(x.dtype), self.gain[...])

    def embed(self, c: Array, cond: Array | None) -> Array:
        """Return the embedding of noise input and label."""
        omega, phase = (
            2 * np.pi * jax.lax.stop_gradient(p[...]) for p in (self.frequencies, self.phases)
        )
        waves = np.float32(np.sqrt(2)) * jnp.cos(
            FOURIER[self.embedding](c)[:, None] * omega[None] + phase[None]
        )
        emb = self.dense(waves)
        if self.label is not None:
            n = self.num_classes
            label = jnp.full(c.shape, n) if cond is None else cond
            chosen = np.float32(np.sqrt(n)) * jax.nn.one_hot(label, n)  # zeros for "no label"
            # a loud answer to a label out of range, where a traced value cannot raise
            chosen = jnp.where(((label >= 0) & (label <= n))[:, None], chosen, jnp.nan)
            emb = mp_sum(emb, self.label(chosen), 0.5)
        return mp_silu(emb)
