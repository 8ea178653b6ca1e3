r"""The blocks of the DDPM++ / NCSN++ U-Net (Song et al. 2021, arXiv:2011.13456, appendix H), channels last.

Every residual sum is :math:`(x + h) / \sqrt 2`, which keeps its variance. Kernels start uniform with variance scale / fan_avg;
what ends a residual branch starts at scale 1e-10, so that a block begins as the identity.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


def kernel_init(scale: float = 1.0):
    """Return the family's initialiser: uniform, variance scale / fan_avg."""
    return nnx.initializers.variance_scaling(scale, "fan_avg", "uniform")


BRANCH_END = kernel_init(1e-10)  # not 0: the reference's init_scale


def rescaled_sum(x: Array, h: Array) -> Array:
    """Return (x + h) / sqrt 2."""
    return (x + h) * np.float32(np.sqrt(0.5))


def conv(features_in: int, features_out: int, size: int, rngs: nnx.Rngs, init=kernel_init()) -> nnx.Conv:  # noqa: B008
    """Return a size x size convolution that keeps the resolution."""
    return nnx.Conv(features_in, features_out, (size, size), kernel_init=init, rngs=rngs)


class GroupNorm(nnx.Module):
    """Normalise each sample over its pixels and groups of channels (Wu and He 2018, arXiv:1803.08494), then scale and shift.

    Groups have at least four channels and there are at most 32. Channels are averaged last, over sums that are already small:
    on CPU this takes about half of nnx.GroupNorm's time, and the variance is that of the centred values, without cancellation.
    """

    def __init__(self, features: int):
        self.groups = min(features // 4, 32)
        if self.groups == 0 or features % self.groups:
            raise ValueError(f"cannot share {features} channels among {self.groups} groups; take nf from multiples of 4, above 32 of 32")
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        centred = x - self.group_mean(x)
        inverse_std = jax.lax.rsqrt(self.group_mean(centred**2) + 1e-6)  # eps of the published networks
        return centred * (inverse_std * self.scale[None, None, None]) + self.bias[None, None, None]

    def group_mean(self, x: Array) -> Array:
        """Return the mean over pixels and the channels of a group, (batch, 1, 1, channels)."""
        b, _, _, c = x.shape
        mean = x.mean((1, 2)).reshape(b, self.groups, -1).mean(-1)
        return jnp.repeat(mean, c // self.groups, axis=1)[:, None, None]


def downsample(x: Array) -> Array:
    """Halve height and width: mean over 2 x 2."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Array) -> Array:
    """Double height and width: nearest neighbour."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


RESAMPLE = {"none": lambda x: x, "down": downsample, "up": upsample}


class Attention(nnx.Module):
    """Residual self-attention over all pixels: one head, logits scaled by channels^-1/2."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(features)
        # q, k, v side by side; fan_avg of one is half that of the three, so 0.2 is the family's 0.1 for each
        self.qkv = nnx.Linear(features, 3 * features, kernel_init=kernel_init(0.2), rngs=rngs)
        self.out = nnx.Linear(features, features, kernel_init=BRANCH_END, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        q, k, v = jnp.split(self.qkv(self.norm(x).reshape(b, h * w, 1, c)), 3, axis=-1)
        mixed = jax.nn.dot_product_attention(q, k, v)
        return rescaled_sum(x, self.out(mixed).reshape(x.shape))


class ResBlock(nnx.Module):
    """Residual block of BigGAN kind: it resamples inside, between its first activation and its first convolution.

    `resample` is a name of RESAMPLE; `attend` adds self-attention behind the block.
    """

    def __init__(
        self, features_in: int, features_out: int, cond_features: int, *, dropout: float, rngs: nnx.Rngs, resample="none", attend=False
    ):
        self.resample = resample
        self.norm0 = GroupNorm(features_in)
        self.conv0 = conv(features_in, features_out, 3, rngs)
        self.cond = nnx.Linear(cond_features, features_out, kernel_init=kernel_init(), rngs=rngs)
        self.norm1 = GroupNorm(features_out)
        self.dropout = nnx.Dropout(dropout)
        self.conv1 = conv(features_out, features_out, 3, rngs, BRANCH_END)
        self.shortcut = conv(features_in, features_out, 1, rngs) if features_in != features_out or resample != "none" else None
        self.attention = Attention(features_out, rngs=rngs) if attend else None

    def __call__(self, x: Array, emb: Array, rngs: nnx.Rngs | None) -> Array:
        resample = RESAMPLE[self.resample]
        h = self.conv0(resample(nnx.silu(self.norm0(x))))
        h = h + self.cond(emb)[:, None, None, :]
        h = self.conv1(self.dropout(nnx.silu(self.norm1(h)), rngs=rngs))
        x = resample(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        x = rescaled_sum(x, h)
        return x if self.attention is None else self.attention(x)
