r"""The U-Net of the score-SDE papers and of their relatives: NCSN++, DDPM++ and DDPM (Song et al. 2021, arXiv:2011.13456, appendix H;
Ho et al. 2020, arXiv:2006.11239), ADM (Dhariwal and Nichol 2021, arXiv:2105.05233) and EDM's versions of them (arXiv:2206.00364).

Level :math:`l` works at resolution :math:`H / 2^l` with ``nf * ch_mult[l]`` channels. On the way down every block's output is kept;
on the way up each is concatenated to the state again, one block more a level. Attention stands behind every block on the way
down and behind the last one on the way up at ``attn_resolutions``, and always in the middle.
How the families differ is in the settings; experiments/configs/score_sde.py has those of each published network.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .computing import compute_type, run
from .embedding import Conditioning, check_inputs, sigma_of
from .layers import ACTIVATIONS, ResBlock, Style, kernel_init, widened
from .pyramids import InputResidual, InputSkip, OutputResidual, OutputSkip, resample_with
from .settings import (
    check_above,
    check_at_least,
    check_attention,
    check_dropout,
    check_sigmas,
    check_widths,
)

CHOICES = {
    "nonlinearity": tuple(ACTIVATIONS),
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "attn_up": ("last", "every"),
}


class Level(nnx.Module):
    """One resolution: blocks, the step to the next resolution (absent at the last one) and a pyramid's merge (or none)."""

    def __init__(self, blocks: list, resample: nnx.Module | None, merge: nnx.Module | None):
        self.blocks, self.resample, self.merge = nnx.List(blocks), resample, merge


class UNet(nnx.Module):
    """U-Net for images of `shape` (height, width, channels).

    Height and width must be divisible by 2^(len(ch_mult) - 1). `attn_resolutions` are heights at which attention is added to
    the one in the middle; heights that no level has are passed over, so that one setting serves images of several sizes.
    With `num_classes` > 0 the network takes labels 0..num_classes, the last meaning "no label".

    Args:
        nf: channels of the first level; the sinusoids of the embedding are as many, the embedding has four times as many features.
        embedding: how the noise input is embedded, a name of EMBEDDINGS; "none": not at all (unconditional DDPM).
        fourier_scale: standard deviation of the random frequencies of a Fourier embedding.
        label_into: what a label is added to, a name of LABEL_INTO.
        nonlinearity: a name of ACTIVATIONS.
        resblock_type: "biggan" resamples inside residual blocks; "ddpm" between them, with a convolution if `resamp_with_conv`.
        down_steps, up_steps: the same level by level, for the step from each level to the one below, where levels differ.
        symmetric_down: that convolution pads on all sides, not only behind the image.
        resampled_shortcut: a "biggan" block that only resamples has a 1 x 1 convolution on its shortcut.
        fir, fir_kernel: resample with this filter instead of means and nearest neighbours.
        progressive, progressive_input, progressive_combine: the image beside the network on the way up and down, see `pyramids`.
        skip_rescale: divide residual sums by sqrt 2; `middle_rescale` is the divisor of those in the middle (None: as the others).
        scale_by_sigma: divide the output by the noise input; by the sigma of an index if `sigmas` = (first, last, number) names a
            geometric sequence of which the noise input is the index.
        init_scale: scale of the kernels that end a residual branch or the network; 0 means 1e-10.
        groups, eps: of GroupNorm, see `Style`; `middle_groups` of the middle and the output, `attention_groups` of attention elsewhere,
            `attn_up_groups` of what enters a block on the way up at a level with attention.
        scale_shift: the embedding scales and shifts the normalised state, instead of being added before.
        head_features: channels of an attention head (0: one head). attn_up: behind which block of a level, on the way up.
        attn_up_resolutions: where attention stands on the way up, if not where it stands on the way down.
        middle_attention: whether the middle has attention.
        centered: False: images and their noise are those of [0, 1]; they are mapped to [-1, 1] first.
        dtype: of convolutions and attention; parameters, normalisation, residual sums, embedding and output stay float32.
        remat: keep only the blocks' outputs for the gradient and compute the rest again: less memory, a third more time.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        nf: int = 32,
        ch_mult: Sequence[float] = (1, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
        num_classes: int = 0,
        embedding: str = "log_noise",
        fourier_scale: float = 16.0,
        label_into: str = "hidden",
        nonlinearity: str = "silu",
        resblock_type: str = "biggan",
        down_steps: Sequence[str] | None = None,
        up_steps: Sequence[str] | None = None,
        resamp_with_conv: bool = True,
        symmetric_down: bool = False,
        resampled_shortcut: bool = True,
        fir: bool = False,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        progressive: str = "none",
        progressive_input: str = "none",
        progressive_combine: str = "sum",
        skip_rescale: bool = True,
        middle_rescale: float | None = None,
        scale_by_sigma: bool = False,
        sigmas: Sequence[float] | None = None,
        init_scale: float = 0.0,
        groups: int = 0,
        middle_groups: int | None = None,
        attention_groups: int = 0,
        attn_up_groups: int = 0,
        eps: float = 1e-6,
        scale_shift: bool = False,
        head_features: int = 0,
        attn_up: str = "last",
        attn_up_resolutions: Sequence[int] | None = None,
        middle_attention: bool = True,
        centered: bool = True,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        given = {
            "nonlinearity": nonlinearity, "resblock_type": resblock_type, "progressive": progressive, "attn_up": attn_up,
            "progressive_input": progressive_input, "progressive_combine": progressive_combine,
        }  # fmt: skip
        for name, value in given.items():
            if value not in CHOICES[name]:
                raise ValueError(
                    f"unknown {name} {value!r}; choose one of {', '.join(CHOICES[name])}"
                )
        levels = len(ch_mult)
        check_shape(tuple(shape), levels)
        check_widths(nf, ch_mult)
        check_at_least(1, num_res_blocks=num_res_blocks)
        check_dropout(dropout)
        check_at_least(0, groups=groups, attention_groups=attention_groups, init_scale=init_scale)
        check_at_least(0, attn_up_groups=attn_up_groups, head_features=head_features)
        check_above(0, eps=eps, fourier_scale=fourier_scale)
        if middle_rescale is not None:
            check_above(0, middle_rescale=middle_rescale)
        if middle_groups is not None:
            check_at_least(0, middle_groups=middle_groups)
        if fir and (not fir_kernel or not sum(fir_kernel)):
            raise ValueError(f"need a fir_kernel whose sum is not 0, got {tuple(fir_kernel)}")
        check_sigmas(sigmas)
        heights = [shape[0] >> level for level in range(levels)]
        check_attention((*attn_resolutions, *(attn_up_resolutions or ())), heights)
        if embedding == "none" and num_classes:
            raise ValueError(
                "a network without embedding takes no labels; name an embedding, or build it with num_classes=0"
            )
        if sigmas is not None and (not scale_by_sigma or len(sigmas) != 3):
            raise ValueError(
                f"sigmas = (first, last, number) says what scale_by_sigma divides by; got {sigmas}, {scale_by_sigma=}"
            )
        self.shape, self.num_classes, self.centered, self.remat = (
            tuple(shape),
            num_classes,
            centered,
            remat,
        )
        self.resblock_type, self.scale_by_sigma, self.sigmas = (
            resblock_type,
            scale_by_sigma,
            None if sigmas is None else tuple(sigmas),
        )
        root2 = float(np.sqrt(2))
        style = Style(
            nonlinearity, groups, attention_groups, eps, root2 if skip_rescale else 1.0, dropout, init_scale, scale_shift, head_features,
            tuple(fir_kernel) if fir else (), resampled_shortcut, compute_type(dtype),
        )  # fmt: skip
        middle = style if middle_rescale is None else style._replace(rescale=float(middle_rescale))
        if middle_groups is not None:
            middle = middle._replace(groups=middle_groups, attention_groups=0)
        self.style = style
        told = {
            "embedding": embedding,
            "num_classes": num_classes,
            "fourier_scale": fourier_scale,
            "label_into": label_into,
        }
        conditioning = partial(
            Conditioning,
            nf,
            4 * nf,
            **told,
            kernel_init=kernel_init(),
            activation=style.act,
            rngs=rngs,
        )
        self.conditioning = conditioning() if embedding != "none" else None
        emb_features = 4 * nf if self.conditioning is not None else 0
        block = partial(ResBlock, emb_features=emb_features, rngs=rngs)

        steps = {"down": down_steps, "up": up_steps}
        for direction, kinds in steps.items():
            if kinds is not None and (
                len(kinds) != levels - 1 or not set(kinds) <= set(CHOICES["resblock_type"])
            ):
                raise ValueError(
                    f"need {levels - 1} {direction}_steps, each biggan or ddpm, got {kinds}"
                )

        def step(direction, features, level):
            if (steps[direction] or [resblock_type] * levels)[level] == "biggan":
                return block(features, features, style=style, resample=direction)
            learned = (
                {"features_in": features, "features_out": features, "symmetric": symmetric_down}
                if resamp_with_conv
                else {}
            )
            return resample_with(style, direction, **learned, rngs=rngs)

        resolutions = [shape[0] >> level for level in range(levels)]
        channels, attend_up = (
            shape[-1],
            attn_resolutions if attn_up_resolutions is None else attn_up_resolutions,
        )
        self.conv_in = style.conv(channels, nf, 3, rngs)
        features, kept, down, up, image = nf, [nf], [], [], channels
        for level in range(levels):
            blocks, resample, merge, width = [], None, None, round(nf * ch_mult[level])
            for _ in range(num_res_blocks):
                blocks.append(
                    block(
                        features, width, style=style, attend=resolutions[level] in attn_resolutions
                    )
                )
                features = width
                kept.append(features)
            if level < levels - 1:
                resample = step("down", features, level)
                if progressive_input == "input_skip":
                    merge = InputSkip(channels, features, style, progressive_combine, rngs=rngs)
                    features *= 1 + (progressive_combine == "cat")
                elif progressive_input == "residual":
                    merge, image = InputResidual(image, features, style, rngs=rngs), features
                kept.append(features)
            down.append(Level(blocks, resample, merge))
        self.middle0 = block(features, features, style=middle, attend=middle_attention)
        self.middle1 = block(features, features, style=middle)
        image = 0
        for level in reversed(range(levels)):
            blocks, merge, width, first = [], None, round(nf * ch_mult[level]), level == levels - 1
            for i in range(num_res_blocks + 1):
                here = resolutions[level] in attend_up
                attend = here and (attn_up == "every" or i == num_res_blocks)
                blocks.append(
                    block(
                        features + kept.pop(),
                        width,
                        style=style,
                        attend=attend,
                        groups_in=here * attn_up_groups,
                    )
                )
                features = width
            out = middle if level == 0 else style
            if progressive == "output_skip":
                merge = OutputSkip(features, channels, out, first=first, rngs=rngs)
            elif progressive == "residual":
                merge, image = (
                    OutputResidual(image, features, style, first=first, rngs=rngs),
                    features,
                )
            up.append(Level(blocks, step("up", features, level - 1) if level > 0 else None, merge))
        self.down, self.up = nnx.List(down), nnx.List(up)
        own_output = (
            progressive != "output_skip"
        )  # the image that grew on the way up is the output otherwise
        self.norm_out = middle.norm(features) if own_output else None
        self.conv_out = (
            style._replace(dtype=None).conv(features, channels, 3, rngs, init_scale)
            if own_output
            else None
        )

    def __call__(
        self, x: Array, c_noise: Array, cond: Array | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Map x (batch, height, width, channels) at noise inputs c_noise (batch,), labels cond (batch,), to an array like x."""
        check_inputs(x, c_noise, cond, self.shape, self.num_classes)
        emb = (
            None if self.conditioning is None else self.style.act(self.conditioning(c_noise, cond))
        )
        call = partial(run, remat=self.remat)
        x = x if self.centered else 2 * x - 1
        pyramid = x
        h = widened(self.conv_in(x))
        kept = [h]
        for level in self.down:
            for block in level.blocks:
                h = call(block, h, emb, rngs)
                kept.append(h)
            if level.resample is not None:
                h = call(level.resample, h, emb, rngs)
                if level.merge is not None:
                    pyramid, h = level.merge(pyramid, h)
                kept.append(h)
        h = call(self.middle1, call(self.middle0, h, emb, rngs), emb, rngs)
        for level in self.up:
            for block in level.blocks:
                h = call(block, jnp.concatenate([h, kept.pop()], axis=-1), emb, rngs)
            if level.merge is not None:
                pyramid, h = level.merge(pyramid, h)
            if level.resample is not None:
                h = call(level.resample, h, emb, rngs)
        if self.conv_out is None or self.norm_out is None:
            h = pyramid
        else:
            h = self.conv_out(self.style.act(self.norm_out(h)))
        return h / sigma_of(c_noise, self.sigmas)[:, None, None, None] if self.scale_by_sigma else h


def check_shape(shape: tuple[int, ...], levels: int) -> None:
    """Raise ValueError unless `shape` is an image that can be halved levels - 1 times."""
    if len(shape) != 3:
        raise ValueError(
            f"UNet needs shape (height, width, channels), got {shape}; use MLP for vectors"
        )
    if levels < 1:
        raise ValueError(
            "ch_mult is empty; give one channel multiplier for each level, such as (1, 2)"
        )
    factor = 2 ** (levels - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"images of shape {shape} cannot be halved {levels - 1} times ({levels} entries in ch_mult): height and width must be "
            f"multiples of {factor}; pad or crop the images, or shorten ch_mult"
        )
