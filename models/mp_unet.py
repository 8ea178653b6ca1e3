r"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv:2312.02696, appendix B; config G).

Every operation keeps the expected magnitude of what passes, so that neither normalisation layers
nor biases are needed. Weights are used at unit length per output, :math:`\hat w = w / \|w\|`. A sum
is :math:`((1-t) a + t b) / \sqrt{(1-t)^2 + t^2}`. A concatenation weighs its parts by the square
roots of their widths. silu is divided by 0.596, its magnitude on normal input. The encoder
normalises every pixel, attention compares directions only, and the output grows from a gain of
zero.

Training also replaces each weight by its `normalised` self after every step
(config.optim.unit_weights). Otherwise weights grow and the effective learning rate falls.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .computing import compute_type, run
from .conditions import ConditionSizes, with_image, with_last
from .embedding import FOURIER, check_state
from .mp_context import MPContextEmbedding
from .mp_layers import MPConv, mp_cat, mp_silu, mp_sum, unit
from .mp_layers import normalised as normalised
from .resample import resampler, upsample
from .settings import (
    check_at_least,
    check_attention,
    check_choice,
    check_dropout,
    check_image_shape,
    check_widths,
)
from .unet_paths import Level

LIMIT = 256.0  # activations are clipped here, for narrow types


class MPBlock(nnx.Module):
    """Residual block.

    The embedding scales the inner state by 1 + gain * its linear map.

    Args:
        features_in: channels of the state.
        features_out: channels of the result.
        emb_features: features of the embedding.
        encoder: whether the block is on the way down, where it normalises its input.
        resample: "none", "down" or "up".
        attend: whether self-attention follows.
        head_features: channels of a head of attention.
        dropout: fraction of the inner features that training drops.
        dtype: type of the computation; None: that of weights and input.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        emb_features: int,
        *,
        encoder: bool,
        resample: str = "none",
        attend: bool = False,
        head_features: int = 64,
        dropout: float = 0.0,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        conv = partial(MPConv, dtype=dtype, rngs=rngs)
        self.encoder = encoder
        self.resample = resample
        self.heads = max(features_out // head_features, 1)
        self.conv0 = conv(features_out if encoder else features_in, features_out, 3)
        self.cond = MPConv(emb_features, features_out, 0, rngs=rngs)
        self.gain = nnx.Param(jnp.zeros(()))
        self.dropout = nnx.Dropout(dropout)
        self.conv1 = conv(features_out, features_out, 3)
        self.shortcut = conv(features_in, features_out, 1) if features_in != features_out else None
        self.qkv = conv(features_out, 3 * features_out, 1) if attend else None
        self.out = conv(features_out, features_out, 1) if attend else None

    def __call__(self, x: Array, emb: Array, rngs: nnx.Rngs | None) -> Array:
        """Map a state to the next one.

        Args:
            x: (batch, height, width, features_in).
            emb: the embedding (batch, emb_features).
            rngs: with a key of "dropout" in training, if there is dropout.
        """
        up = self.resample == "up"
        x = x if up else resampler(self.resample)(x)
        if self.encoder:
            x = unit(x if self.shortcut is None else self.shortcut(x), -1)
        y = self.conv0(mp_silu(x), upsampled=up)
        x = upsample(x) if up else x
        scale = 1 + self.cond(emb, self.gain[...])
        y = mp_silu(y * scale[:, None, None].astype(y.dtype))
        y = self.conv1(self.dropout(y, rngs=rngs))
        if not self.encoder and self.shortcut is not None:
            x = self.shortcut(x)
        x = mp_sum(x, y.astype(x.dtype), 0.3)
        if self.qkv is not None and self.out is not None:
            x = self._attended(x, self.qkv, self.out)
        return jnp.clip(x, -LIMIT, LIMIT)

    def _attended(self, x: Array, qkv: MPConv, out: MPConv) -> Array:
        """Return the sum of a state (batch, height, width, channels) and its attention."""
        b, h, w, c = x.shape
        heads = qkv(x).reshape(b, h * w, 3 * self.heads, -1)
        q, k, v = (unit(part, -1) for part in jnp.split(heads, 3, axis=2))
        mixed = jax.nn.dot_product_attention(q, k, v)
        return mp_sum(x, out(mixed.reshape(b, h, w, c)).astype(x.dtype), 0.3)


class MPUNet(nnx.Module):
    """EDM2's U-Net for images of `shape` (height, width, channels).

    Published for latents of (64, 64, 4): nf is 128, 192, 256, 320, 384 and 448 for XS, S, M, L, XL
    and XXL, and the other settings are the defaults. With `num_classes` > 0 the network takes
    labels 0..num_classes, of which the last means "no label"; with `context` > 0 vectors of that
    many features, or sets of them; with `cond_channels` > 0 images, which are appended to the
    channels of its input; see `models.conditions`. Contexts and images should have a magnitude of
    about 1, as everything here.

    Args:
        shape: (height, width, channels) of an image.
        nf: channels of the first level; the embedding has as many frequencies.
        ch_mult: channels of each level, from the finest to the coarsest, as multiples of `nf`.
        num_res_blocks: residual blocks of a level on the way down; the way up has one more.
        attn_resolutions: heights at which every block has attention; the first block in the middle
            always has.
        head_features: channels of a head of attention.
        dropout: fraction of the features that training drops in each block.
        num_classes: number of classes; 0 for a network without labels.
        context: features of a context, a vector or a set of vectors; 0 for a network without.
        cond_channels: channels of an image that is a condition; 0 for a network without.
        self_conditioning: take the last estimate of the clean data as further channels.
        embedding: what the random frequencies see, a name of `FOURIER`; EDM2 gives log(sigma) / 4.
        dtype: type of convolutions and attention, "float32" or "bfloat16". The parameters and the
            embedding stay float32, and so does the output.
        remat: keep only the outputs of the blocks for the gradient and compute the rest again.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: a setting is out of range, or does not fit the shape.
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
        context: int = 0,
        cond_channels: int = 0,
        self_conditioning: bool = False,
        embedding: str = "fourier_raw",
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_image_shape(tuple(shape), len(ch_mult))
        heights = [shape[0] >> level for level in range(len(ch_mult))]
        check_widths(nf, ch_mult)
        check_at_least(1, num_res_blocks=num_res_blocks, head_features=head_features)
        check_dropout(dropout)
        check_attention(attn_resolutions, heights)
        check_choice("embedding", embedding, FOURIER)
        self.shape = tuple(shape)
        self.num_classes = num_classes
        self.condition_sizes = ConditionSizes(
            label=num_classes, context=context, image=cond_channels
        )
        self.condition_sizes.check()
        self.self_conditioning = self_conditioning
        self.embedding = embedding
        self.remat = remat
        channels = shape[-1]
        widths = [nf * multiple for multiple in ch_mult]
        compute = compute_type(dtype)
        emb_features = max(widths)
        self.frequencies = nnx.Param(jax.random.normal(rngs.params(), (nf,)))
        self.phases = nnx.Param(jax.random.uniform(rngs.params(), (nf,)))
        self.dense = MPConv(nf, emb_features, 0, rngs=rngs)
        self.label = MPConv(num_classes, emb_features, 0, rngs=rngs) if num_classes else None
        self.context = MPContextEmbedding(context, emb_features, rngs=rngs) if context else None
        channels_in = channels + cond_channels + channels * self_conditioning + 1
        self.conv_in = MPConv(channels_in, widths[0], 3, compute, rngs=rngs)
        block = partial(
            MPBlock,
            emb_features=emb_features,
            head_features=head_features,
            dropout=dropout,
            dtype=compute,
            rngs=rngs,
        )
        attend = [height in attn_resolutions for height in heights]
        down, skips = down_path(block, widths, attend, num_res_blocks)
        self.middle0 = block(widths[-1], widths[-1], encoder=False, attend=True)
        self.middle1 = block(widths[-1], widths[-1], encoder=False)
        self.down = nnx.List(down)
        self.up = nnx.List(up_path(block, widths, attend, skips, num_res_blocks + 1))
        self.conv_out = MPConv(widths[0], channels, 3, rngs=rngs)
        self.gain = nnx.Param(jnp.zeros(()))

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
        emb = self.embed(c_noise, given.label, given.context)
        call = partial(run, remat=self.remat)
        ones = jnp.ones_like(x[..., :1])  # which stand for a bias
        inputs = with_image(x, given.image, self.condition_sizes.image)
        inputs = with_last(x, inputs, last, self.self_conditioning)
        h = self.conv_in(jnp.concatenate([inputs, ones], axis=-1))
        skips = [h]
        for level in self.down:
            for block in level.blocks:
                h = call(block, h, emb, rngs)
                skips.append(h)
            if level.resample is not None:
                h = call(level.resample, h, emb, rngs)
                skips.append(h)
        h = call(self.middle0, h, emb, rngs)
        h = call(self.middle1, h, emb, rngs)
        for level in self.up:
            for block in level.blocks:
                h = call(block, mp_cat(h, skips.pop(), 0.5), emb, rngs)
            if level.resample is not None:
                h = call(level.resample, h, emb, rngs)
        return self.conv_out(h.astype(x.dtype), self.gain[...])

    def embed(self, c: Array, label: Array | None, context: Array | None = None) -> Array:
        """Return the embedding (batch, features) of noise inputs, labels and contexts.

        A label out of range gives NaN, which is loud where a traced value cannot raise.
        """
        omega = 2 * np.pi * jax.lax.stop_gradient(self.frequencies[...])
        phase = 2 * np.pi * jax.lax.stop_gradient(self.phases[...])
        angle = FOURIER[self.embedding](c)[:, None] * omega[None] + phase[None]
        emb = self.dense(np.float32(np.sqrt(2)) * jnp.cos(angle))
        if self.label is not None:
            n = self.num_classes
            label = jnp.full(c.shape, n) if label is None else label
            chosen = np.float32(np.sqrt(n)) * jax.nn.one_hot(label, n)  # zeros for "no label"
            known = (label >= 0) & (label <= n)
            chosen = jnp.where(known[:, None], chosen, jnp.nan)
            emb = mp_sum(emb, self.label(chosen), 0.5)
        if self.context is not None:
            emb = mp_sum(emb, self.context(context, len(c)), 0.5)
        return mp_silu(emb)


def down_path(
    block: Callable[..., MPBlock], widths: Sequence[int], attend: Sequence[bool], number: int
) -> tuple[list[Level], list[int]]:
    """Return the levels on the way down, and the channels of each state that the way up needs.

    Args:
        block: the function that makes a block.
        widths: channels of the levels, from the finest to the coarsest.
        attend: whether the blocks of each level have attention.
        number: blocks of a level.
    """
    levels = []
    features = widths[0]
    skips = [features]
    for level, width in enumerate(widths):
        blocks = []
        for _ in range(number):
            blocks.append(block(features, width, encoder=True, attend=attend[level]))
            features = width
            skips.append(features)
        step = None
        if level < len(widths) - 1:
            step = block(features, features, encoder=True, resample="down")
            skips.append(features)
        levels.append(Level(blocks, step, None))
    return levels, skips


def up_path(
    block: Callable[..., MPBlock],
    widths: Sequence[int],
    attend: Sequence[bool],
    skips: Sequence[int],
    number: int,
) -> list[Level]:
    """Return the levels on the way up, from the coarsest to the finest.

    Args:
        block: the function that makes a block.
        widths: channels of the levels, from the finest to the coarsest.
        attend: whether the blocks of each level have attention.
        skips: channels of the states that the way down kept, in its order.
        number: blocks of a level.
    """
    levels = []
    features = widths[-1]
    remaining = list(skips)
    for level in reversed(range(len(widths))):
        blocks = []
        for _ in range(number):
            features_in = features + remaining.pop()
            features = widths[level]
            blocks.append(block(features_in, features, encoder=False, attend=attend[level]))
        step = None
        if level > 0:
            step = block(features, features, encoder=False, resample="up")
        levels.append(Level(blocks, step, None))
    return levels
