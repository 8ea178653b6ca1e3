r"""The blocks of the score-SDE U-Nets and of their relatives, channels last.

They are those of Song et al. 2021 (arXiv:2011.13456, appendix H). A residual sum is
:math:`(x + h) / r`. With :math:`r = \sqrt 2` it keeps its variance; DDPM has r = 1. Kernels start
uniform with variance scale / fan_avg. The kernel that ends a residual branch starts at scale 1e-10,
so that a block begins as the identity.

What the blocks of one network have in common is a `Style`. The parameters are float32 always. With
a `dtype`, convolutions and attention compute in that type; normalisation, residual sums, the
embedding and softmax still compute in float32.
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


def kernel_init(scale: float = 1.0) -> Callable:
    """Return the initialiser of the family: uniform, variance scale / fan_avg; 0 means 1e-10."""
    return nnx.initializers.variance_scaling(scale or 1e-10, "fan_avg", "uniform")


BRANCH_END = kernel_init(0.0)


class Style(NamedTuple):
    """What the blocks of a network have in common."""

    activation: str = "silu"  # a name of ACTIVATIONS
    groups: int = 0  # of GroupNorm; 0: one for every four channels, at most 32
    attention_groups: int = 0  # of GroupNorm before attention; 0: those of `groups`
    eps: float = 1e-6  # of GroupNorm
    rescale: float = float(np.sqrt(2))  # residual sums are divided by it
    dropout: float = 0.0
    init_scale: float = 0.0  # of the kernel that ends a residual branch
    scale_shift: bool = False  # the embedding scales and shifts the normalised state
    head_features: int = 0  # of attention; 0: one head
    fir: tuple[float, ...] = ()  # filter for resampling; (): means and nearest neighbours
    resampled_shortcut: bool = True  # a 1 x 1 convolution also where a block only resamples
    dtype: Any = None  # of the computation; None: that of parameters and input

    def act(self, x: Array) -> Array:
        """Apply the activation, element by element."""
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
        """Return (x + h) / r, for arrays of one shape, in float32 or wider.

        What runs through the whole network is not rounded at every block.
        """
        x = widened(x)
        h = widened(h)
        if self.rescale == 1:
            return x + h
        return (x + h) * np.asarray(1 / self.rescale, x.dtype)


def widened(x: Array) -> Array:
    """Return `x` in float32, if its type is narrower."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018, arXiv:1803.08494), then a scale and a shift.

    Each sample is normalised over its pixels and groups of channels.

    Args:
        features: number of channels.
        groups: number of groups; 0 makes one of every four channels, but at most 32.
        eps: what is added to every variance.

    Raises:
        ValueError: the channels cannot be shared equally among the groups.
    """

    def __init__(self, features: int, groups: int = 0, eps: float = 1e-6):
        self.groups = groups or min(features // 4, 32)
        self.eps = eps
        if self.groups == 0 or features % self.groups:
            remedy = "take nf from multiples of 4, above 32 of 32"
            if groups:
                remedy = "take multiples of it"
            raise ValueError(
                f"cannot share {features} channels among {self.groups} groups; {remedy}"
            )
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        """Normalise x (batch, height, width, features)."""
        scale, bias = (p[...][None, None, None] for p in (self.scale, self.bias))
        return group_norm(widened(x), scale, bias, self.groups, self.eps).astype(x.dtype)


class Attention(nnx.Module):
    """Residual self-attention over all pixels, logits scaled by (channels of a head)^-1/2.

    Args:
        features: number of channels.
        style: what the blocks of the network have in common.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: the channels cannot be cut into heads of `style.head_features`.
    """

    def __init__(self, features: int, style: Style = Style(), *, rngs: nnx.Rngs):  # noqa: B008
        head_features = style.head_features or features
        if features % head_features:
            raise ValueError(
                f"cannot cut {features} channels into heads of {head_features}; "
                "choose a divisor as head_features"
            )
        self.style = style
        self.heads = features // head_features
        linear = partial(nnx.Linear, features, dtype=style.dtype, rngs=rngs)
        self.norm = GroupNorm(features, style.attention_groups or style.groups, style.eps)
        # q, k and v are side by side: fan_avg of one is half that of the three, so that 0.2 is the
        # family's 0.1 for each
        self.qkv = linear(3 * features, kernel_init=kernel_init(0.2))
        self.out = linear(features, kernel_init=kernel_init(style.init_scale))

    def __call__(self, x: Array) -> Array:
        """Map a state (batch, height, width, features) to one of its shape."""
        b, h, w, c = x.shape
        tokens = self.norm(x).reshape(b, h * w, c)
        parts = jnp.split(self.qkv(tokens), 3, axis=-1)
        q, k, v = (part.reshape(b, h * w, self.heads, -1) for part in parts)
        mixed = jax.nn.dot_product_attention(q, k, v)
        branch = self.out(mixed.reshape(b, h * w, c)).reshape(x.shape)
        return self.style.residual_sum(x, summable(branch))


class ResBlock(nnx.Module):
    """Residual block: norm, activation, convolution, twice, with the embedding in between.

    As in BigGAN (Brock et al. 2019, arXiv:1809.11096) it can change the resolution inside, between
    its first activation and its first convolution.

    Args:
        features_in: channels of the state.
        features_out: channels of the result.
        emb_features: features of the embedding; 0 if there is none.
        style: what the blocks of the network have in common.
        resample: "none", "down" or "up".
        attend: whether self-attention follows the block.
        groups_in: groups of the first normalisation; 0 takes those of the style.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: the channels cannot be shared among groups or heads.
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
        self.style = style
        self.resample = resample
        self.norm0 = GroupNorm(features_in, groups_in or style.groups, style.eps)
        self.conv0 = style.conv(features_in, features_out, 3, rngs)
        linear = partial(nnx.Linear, kernel_init=kernel_init(), rngs=rngs)
        width = features_out * (1 + style.scale_shift)
        self.cond = linear(emb_features, width) if emb_features else None
        self.norm1 = style.norm(features_out)
        self.dropout = nnx.Dropout(style.dropout)
        self.conv1 = style.conv(features_out, features_out, 3, rngs, style.init_scale)
        project = features_in != features_out or (resample != "none" and style.resampled_shortcut)
        self.shortcut = style.conv(features_in, features_out, 1, rngs) if project else None
        self.attention = Attention(features_out, style, rngs=rngs) if attend else None

    def __call__(self, x: Array, emb: Array | None, rngs: nnx.Rngs | None) -> Array:
        """Map a state to the next one.

        Args:
            x: (batch, height, width, features_in).
            emb: the embedding (batch, emb_features), or None if there is none.
            rngs: with a key of "dropout" in training, if there is dropout.
        """
        style = self.style
        h = convolved(self.conv0, style.act(self.norm0(x)), self.resample, style.fir)
        h = self._conditioned(h, emb)
        h = convolved(self.conv1, self.dropout(style.act(h), rngs=rngs))
        if self.shortcut is None:
            x = resampler(self.resample, style.fir)(x)
        else:
            x = convolved(self.shortcut, x, self.resample, style.fir)
        x = style.residual_sum(x, h)
        return x if self.attention is None else self.attention(x)

    def _conditioned(self, h: Array, emb: Array | None) -> Array:
        """Return the inner state normalised, with the embedding added before or applied behind."""
        if self.cond is None or emb is None:
            return self.norm1(h)
        condition = self.cond(emb)[:, None, None, :].astype(h.dtype)
        if not self.style.scale_shift:
            return self.norm1(h + condition)
        scale, shift = jnp.split(condition, 2, axis=-1)
        return self.norm1(h) * (1 + scale) + shift
