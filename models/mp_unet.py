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
from .embedding import FOURIER, check_inputs
from .resample import conv_of_upsampled, convolution, resampler, upsample
from .settings import (
    check_at_least,
    check_attention,
    check_choice,
    check_classes,
    check_dropout,
    check_image_shape,
    check_widths,
)
from .unet_paths import Level

LIMIT = 256.0  # activations are clipped here, for narrow types


def unit(x: Array, axes: Sequence[int] | int) -> Array:
    """Scale `x` to root mean square 1 over `axes`, computed in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rms = jnp.sqrt(jnp.mean(wide**2, axes, keepdims=True) + 1e-20)  # its slope stays finite at zero
    return (wide / (1e-4 + rms)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """Return silu(x) / 0.596."""
    return nnx.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
    """Return the sum of two states of unit magnitude and one shape, at unit magnitude (eq. 88).

    `t` is the weight of b, and 1 - t that of a.
    """
    magnitude = np.float32(np.hypot(1 - t, t)).astype(a.dtype)
    return ((1 - t) * a + t * b) / magnitude


def mp_cat(a: Array, b: Array, t: float) -> Array:
    """Concatenate two states, each contributing its share whatever its width (eq. 103).

    `t` is the share of b, and 1 - t that of a.
    """
    width_a = a.shape[-1]
    width_b = b.shape[-1]
    total = np.sqrt((width_a + width_b) / ((1 - t) ** 2 + t**2))
    weight_a = np.asarray(total / np.sqrt(width_a) * (1 - t), a.dtype)
    weight_b = np.asarray(total / np.sqrt(width_b) * t, a.dtype)
    return jnp.concatenate([weight_a * a, weight_b * b], axis=-1)


def normalised(params: Any) -> Any:
    """Return parameters with every weight of an `MPConv` at unit magnitude per output.

    Training does so after each step.
    """

    def one(path, p):
        if getattr(path[-1], "key", None) != "weight":
            return p
        return unit(p, tuple(range(p.ndim - 1)))

    return jax.tree_util.tree_map_with_path(one, params)


class MPConv(nnx.Module):
    """A convolution or linear map without bias, whose weights count by their direction only.

    See eq. 47 and 66.

    Args:
        features_in: channels of the state.
        features_out: channels of the result.
        size: height and width of the kernel; 0 makes a linear map.
        dtype: type of the computation; None: that of weights and input.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int,
        dtype: Any = None,
        *,
        rngs: nnx.Rngs,
    ):
        shape = (features_in, features_out)
        if size:
            shape = (size, size, features_in, features_out)
        self.weight = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.dtype = dtype

    def __call__(self, x: Array, gain: Array | float = 1.0, *, upsampled: bool = False) -> Array:
        """Apply to `x`, or to `x` upsampled; `gain` multiplies the result.

        A linear map takes (batch, features_in), a convolution (batch, height, width, features_in).
        """
        weight = self.weight[...]
        w = unit(weight, tuple(range(weight.ndim - 1)))
        w = w * (gain / np.float32(np.sqrt(weight[..., 0].size)))
        dtype = self.dtype or jnp.result_type(x, w)
        x = x.astype(dtype)
        w = w.astype(dtype)
        if w.ndim == 2:
            return x @ w
        if upsampled:
            return conv_of_upsampled(x, w)
        return convolution(x, w, "SAME")


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
    labels 0..num_classes, of which the last means "no label".

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
        check_classes(num_classes)
        self.shape = tuple(shape)
        self.num_classes = num_classes
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
        self.conv_in = MPConv(channels + 1, widths[0], 3, compute, rngs=rngs)
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
        cond: Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Map noisy images to an array of their shape.

        Args:
            x: (batch, height, width, channels).
            c_noise: noise inputs (batch,).
            cond: labels (batch,), or None.
            rngs: with a key of "dropout", for a network in training that has dropout.

        Raises:
            ValueError: an argument has another shape or type, or labels are out of range.
        """
        check_inputs(x, c_noise, cond, self.shape, self.num_classes)
        emb = self.embed(c_noise, cond)
        call = partial(run, remat=self.remat)
        ones = jnp.ones_like(x[..., :1])  # which stand for a bias
        h = self.conv_in(jnp.concatenate([x, ones], axis=-1))
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

    def embed(self, c: Array, cond: Array | None) -> Array:
        """Return the embedding (batch, features) of noise inputs and labels, both (batch,).

        A label out of range gives NaN, which is loud where a traced value cannot raise.
        """
        omega = 2 * np.pi * jax.lax.stop_gradient(self.frequencies[...])
        phase = 2 * np.pi * jax.lax.stop_gradient(self.phases[...])
        angle = FOURIER[self.embedding](c)[:, None] * omega[None] + phase[None]
        emb = self.dense(np.float32(np.sqrt(2)) * jnp.cos(angle))
        if self.label is not None:
            n = self.num_classes
            label = jnp.full(c.shape, n) if cond is None else cond
            chosen = np.float32(np.sqrt(n)) * jax.nn.one_hot(label, n)  # zeros for "no label"
            known = (label >= 0) & (label <= n)
            chosen = jnp.where(known[:, None], chosen, jnp.nan)
            emb = mp_sum(emb, self.label(chosen), 0.5)
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
