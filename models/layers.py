r"""The blocks of the score-SDE U-Nets (Song et al. 2021, arXiv:2011.13456, appendix H) and of their relatives, channels last.

A residual sum is :math:`(x + h) / r`; :math:`r = \sqrt 2` keeps its variance, DDPM has r = 1. Kernels start uniform with variance
scale / fan_avg; what ends a residual branch starts at scale 1e-10, so that a block begins as the identity.
What the blocks of one network share is a `Style`. Parameters are float32 always; with a `dtype` convolutions and attention compute in it,
normalisation, residual sums, the embedding and softmax in float32 still.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .group_norm import group_norm
from .resample import convolved, resampler
from .sums import summable

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nnx.silu,
    "elu": nnx.elu,
    "relu": nnx.relu,
    "lrelu": partial(nnx.leaky_relu, negative_slope=0.2),
    "gelu": partial(nnx.gelu, approximate=False),
    "mish": lambda x: x * jnp.tanh(nnx.softplus(x)),
}


def kernel_init(scale: float = 1.0):
    """Return the family's initialiser: uniform, variance scale / fan_avg, scale 0 meaning 1e-10."""
    return nnx.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


BRANCH_END = kernel_init(0.0)


class Style(NamedTuple):
    """What the blocks of a network have in common."""

    activation: str = "silu"  # a name of ACTIVATIONS
    groups: int = 0  # of GroupNorm; 0: one for every four channels, at most 32
    attention_groups: int = 0
    eps: float = 1e-6  # of GroupNorm
    rescale: float = float(np.sqrt(2))  # residual sums are divided by it
    dropout: float = 0.0
    init_scale: float = 0.0  # of what ends a residual branch
    scale_shift: bool = (
        False  # the embedding scales and shifts what is normalised, instead of being added before
    )
    head_features: int = 0  # of attention; 0: one head
    fir: tuple[float, ...] = ()  # filter for resampling
    resampled_shortcut: bool = True  # a 1 x 1 convolution also where a block only resamples
    dtype: Any = None  # of the computation; None: that of parameters and input

    def act(self, x: Array) -> Array:
        """Apply the activation."""
        return ACTIVATIONS[self.activation](x)

    def conv(
        self, features_in: int, features_out: int, size: int, rngs: nnx.Rngs, scale: float = 1.0
    ) -> nnx.Conv:
        """Return a size x size convolution that keeps the resolution."""
        return nnx.Conv(
            features_in,
            features_out,
            (size, size),
            kernel_init=kernel_init(scale),
            dtype=self.dtype,
            rngs=rngs,
        )

    def norm(self, features: int) -> "GroupNorm":
        """Return the normalisation of `features` channels."""
        return GroupNorm(features, self.groups, self.eps)

    def residual_sum(self, x: Array, h: Array) -> Array:
        """Return (x + h) / r, in float32 or wider: what runs through the whole network is not rounded at every block."""
        x, h = widened(x), widened(h)
        return x + h if self.rescale == 1 else (x + h) * np.asarray(1 / self.rescale, x.dtype)


def widened(x: Array) -> Array:
    """Return `x` in float32, if its type is narrower."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class GroupNorm(nnx.Module):
    """Normalise each sample over its pixels and groups of channels (Wu and He 2018, arXiv:1803.08494), then scale and shift.

    `groups` 0: at least four channels a group, at most 32 groups.
    """

    def __init__(
        self, features: int, groups: int = 0, eps: float = 1e-6
    ):  # eps of the published networks
        self.groups, self.eps = groups or min(features // 4, 32), eps
        if self.groups == 0 or features % self.groups:
            remedy = (
                "take multiples of it" if groups else "take nf from multiples of 4, above 32 of 32"
            )
            raise ValueError(
                f"cannot share {features} channels among {self.groups} groups; {remedy}"
            )
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        scale, bias = (p[...][None, None, None] for p in (self.scale, self.bias))
        return group_norm(widened(x), scale, bias, self.groups, self.eps).astype(x.dtype)


class Attention(nnx.Module):
    """Residual self-attention over all pixels, logits scaled by (channels of a head)^-1/2."""

    def __init__(self, features: int, style: Style = Style(), *, rngs: nnx.Rngs):  # noqa: B008
        self.style, self.heads = style, features // (style.head_features or features)
        if self.heads * (style.head_features or features) != features:
            raise ValueError(
                f"cannot cut {features} channels into heads of {style.head_features}; choose a divisor as head_features"
            )
        linear = partial(nnx.Linear, features, dtype=style.dtype, rngs=rngs)
        self.norm = GroupNorm(features, style.attention_groups or style.groups, style.eps)
        # q, k, v side by side; fan_avg of one is half that of the three, so 0.2 is the family's 0.1 for each
        self.qkv = linear(3 * features, kernel_init=kernel_init(0.2))
        self.out = linear(features, kernel_init=kernel_init(style.init_scale))

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        q, k, v = jnp.split(self.qkv(self.norm(x).reshape(b, h * w, c)), 3, axis=-1)
        q, k, v = (a.reshape(b, h * w, self.heads, -1) for a in (q, k, v))
        mixed = jax.nn.dot_product_attention(q, k, v)
        return self.style.residual_sum(
            x, summable(self.out(mixed.reshape(b, h * w, c)).reshape(x.shape))
        )


class ResBlock(nnx.Module):
    """Residual block: norm, activation, convolution, twice, with the embedding in between.

    As in BigGAN (Brock et al. 2019, arXiv:1809.11096) it can resample inside, between its first activation and its first convolution:
    `resample` is "none", "down" or "up". `attend` adds self-attention behind the block. `emb_features` 0: there is no embedding.
    `groups_in`: groups of the first normalisation, if not those of the style.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        emb_features: int,
        style: Style = Style(),  # noqa: B008
        *,
        resample: str = "none",
        attend: bool = False,
        groups_in: int = 0,
        rngs: nnx.Rngs,
    ):
        self.style, self.resample = style, resample
        self.norm0 = GroupNorm(features_in, groups_in or style.groups, style.eps)
        self.conv0 = style.conv(features_in, features_out, 3, rngs)
        width = features_out * (1 + style.scale_shift)
        self.cond = (
            nnx.Linear(emb_features, width, kernel_init=kernel_init(), rngs=rngs)
            if emb_features
            else None
        )
        self.norm1 = style.norm(features_out)
        self.dropout = nnx.Dropout(style.dropout)
        self.conv1 = style.conv(features_out, features_out, 3, rngs, style.init_scale)
        project = features_in != features_out or (resample != "none" and style.resampled_shortcut)
        self.shortcut = style.conv(features_in, features_out, 1, rngs) if project else None
        self.attention = Attention(features_out, style, rngs=rngs) if attend else None

    def __call__(self, x: Array, emb: Array | None, rngs: nnx.Rngs | None) -> Array:
        style = self.style
        h = convolved(self.conv0, style.act(self.norm0(x)), self.resample, style.fir)
        if self.cond is None or emb is None:
            h = self.norm1(h)
        else:
            told = self.cond(emb)[:, None, None, :].astype(h.dtype)
            if style.scale_shift:
                scale, shift = jnp.split(told, 2, axis=-1)
                h = self.norm1(h) * (1 + scale) + shift
            else:
                h = self.norm1(h + told)
        h = convolved(self.conv1, self.dropout(style.act(h), rngs=rngs))
        if self.shortcut is None:
            x = resampler(self.resample, style.fir)(x)
        else:
            x = convolved(self.shortcut, x, self.resample, style.fir)
        x = style.residual_sum(x, h)
        return x if self.attention is None else self.attention(x)
