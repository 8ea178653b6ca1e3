r"""The DDPM++ U-Net (Song et al. 2021, arXiv:2011.13456, appendix H): the base of the score-SDE family of image networks.

Level :math:`l` works at resolution :math:`H / 2^l` with ``nf * ch_mult[l]`` channels. On the way down every block's output is kept;
on the way up each is concatenated to the state again, one block more a level. Attention stands behind every block on the way
down and behind the last one on the way up at ``attn_resolutions``, and always in the middle.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .embedding import Conditioning, check_inputs
from .layers import BRANCH_END, GroupNorm, ResBlock, conv, kernel_init


class UNet(nnx.Module):
    """U-Net for images of `shape` (height, width, channels).

    Height and width must be divisible by 2^(len(ch_mult) - 1). `attn_resolutions` are heights at which attention is added to
    the one in the middle; heights that no level has are passed over, so that one setting serves images of several sizes.
    `embedding` names how the noise input is embedded (EMBEDDINGS). With `num_classes` > 0 the network takes labels
    0..num_classes, the last meaning "no label".
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        nf: int = 32,
        ch_mult: Sequence[int] = (1, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
        num_classes: int = 0,
        embedding: str = "log_noise",
        rngs: nnx.Rngs,
    ):
        levels = len(ch_mult)
        check_shape(tuple(shape), levels)
        if num_res_blocks < 1:
            raise ValueError(f"need num_res_blocks >= 1, got {num_res_blocks}")
        self.shape, self.num_classes = tuple(shape), num_classes
        self.conditioning = Conditioning(nf, 4 * nf, embedding=embedding, num_classes=num_classes, kernel_init=kernel_init(), rngs=rngs)

        def block(features_in, features_out, **kwargs):
            return ResBlock(features_in, features_out, 4 * nf, dropout=dropout, rngs=rngs, **kwargs)

        attend = [shape[0] >> level in attn_resolutions for level in range(levels)]
        self.conv_in = conv(shape[-1], nf, 3, rngs)
        features, kept, down, up = nf, [nf], [], []
        for level in range(levels):
            for _ in range(num_res_blocks):
                down.append(block(features, nf * ch_mult[level], attend=attend[level]))
                features = nf * ch_mult[level]
                kept.append(features)
            if level < levels - 1:
                down.append(block(features, features, resample="down"))
                kept.append(features)
        self.middle0 = block(features, features, attend=True)
        self.middle1 = block(features, features)
        for level in reversed(range(levels)):
            for i in range(num_res_blocks + 1):
                up.append(block(features + kept.pop(), nf * ch_mult[level], attend=attend[level] and i == num_res_blocks))
                features = nf * ch_mult[level]
            if level > 0:
                up.append(block(features, features, resample="up"))
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.norm_out = GroupNorm(features)
        self.conv_out = conv(features, shape[-1], 3, rngs, BRANCH_END)

    def __call__(self, x: Array, c_noise: Array, cond: Array | None = None, *, rngs: nnx.Rngs | None = None) -> Array:
        """Map x (batch, height, width, channels) at noise inputs c_noise (batch,), labels cond (batch,), to an array like x."""
        check_inputs(x, c_noise, cond, self.shape, self.num_classes)
        emb = nnx.silu(self.conditioning(c_noise, cond))
        h = self.conv_in(x)
        kept = [h]
        for block in self.down:
            h = block(h, emb, rngs)
            kept.append(h)
        h = self.middle1(self.middle0(h, emb, rngs), emb, rngs)
        for block in self.up:
            if block.resample != "up":
                h = jnp.concatenate([h, kept.pop()], axis=-1)
            h = block(h, emb, rngs)
        return self.conv_out(nnx.silu(self.norm_out(h)))


def check_shape(shape: tuple[int, ...], levels: int) -> None:
    """Raise ValueError unless `shape` is an image that can be halved levels - 1 times."""
    if len(shape) != 3:
        raise ValueError(f"UNet needs shape (height, width, channels), got {shape}; use MLP for vectors")
    if levels < 1:
        raise ValueError("ch_mult is empty; give one channel multiplier for each level, such as (1, 2)")
    factor = 2 ** (levels - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"images of shape {shape} cannot be halved {levels - 1} times ({levels} entries in ch_mult): height and width must be "
            f"multiples of {factor}; pad or crop the images, or shorten ch_mult"
        )
