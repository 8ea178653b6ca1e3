r"""The U-Net of the score-SDE papers and of their relatives.

These are NCSN++, DDPM++ and DDPM (Song et al. 2021, arXiv:2011.13456, appendix H; Ho et al. 2020,
arXiv:2006.11239), ADM (Dhariwal and Nichol 2021, arXiv:2105.05233) and EDM's versions of them
(Karras et al. 2022, arXiv:2206.00364).

Level :math:`l` works at resolution :math:`H / 2^l` with ``nf * ch_mult[l]`` channels. The output of
every block on the way down is kept. On the way up each of them is concatenated to the state again,
so that a level has one block more. Attention follows every block on the way down and the last one
on the way up at ``attn_resolutions``, and always the first block in the middle.
The families differ in their settings; experiments/configs/score_sde.py has those of each published
network.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .border import bordered, bordered_shape, without_border
from .computing import compute_type, run
from .conditions import ConditionSizes, with_image, with_last
from .embedding import Conditioning, check_state, sigma_of
from .layers import ACTIVATIONS, Style, kernel_init, widened
from .settings import (
    check_at_least,
    check_attention,
    check_choice,
    check_dropout,
    check_image_shape,
    check_sigmas,
    check_widths,
)
from .unet_paths import Plan, down_path, middle, up_path
from .unet_settings import (
    AttentionSettings,
    ConditioningSettings,
    Groups,
    NormalisationSettings,
    PyramidSettings,
    ResamplingSettings,
    ResidualSettings,
    as_groups,
)

Section = Mapping[str, Any]


class UNet(nnx.Module):
    """U-Net for images of `shape` (height, width, channels).

    Height and width, with what `pad` adds, must be divisible by 2^(len(ch_mult) - 1). With
    `num_classes` > 0 the network takes labels 0..num_classes, of which the last means "no label";
    with `context` > 0 vectors of that many features, or sets of them; with `cond_channels` > 0
    images, which are appended to the channels of its input; with `augmentation` > 0 that many
    numbers, which describe an augmentation; see `models.conditions`.

    Args:
        shape: (height, width, channels) of an image.
        nf: channels of the first level. The embedding of the noise input has `nf` sinusoids and
            4 * nf features.
        ch_mult: channels of each level, from the finest to the coarsest, as multiples of `nf`.
        num_res_blocks: residual blocks of a level on the way down; the way up has one more.
        attn_resolutions: heights at which attention is added to that in the middle. Heights that no
            level has are passed over, so that one setting serves images of several sizes.
        dropout: fraction of the features that training drops in each block.
        num_classes: number of classes; 0 for a network without labels.
        context: features of a context, a vector or a set of vectors; 0 for a network without.
        cond_channels: channels of an image that is a condition; 0 for a network without.
        augmentation: numbers that describe an augmentation; 0 for a network that is not told of
            any.
        self_conditioning: take the last estimate of the clean data as further channels.
        embedding: how the noise input is embedded, a name of `EMBEDDINGS`; "none" leaves it out
            (unconditional DDPM).
        nonlinearity: a name of `ACTIVATIONS`.
        scale_by_sigma: divide the output by the noise input, or by the sigma that it is the index
            of, if there are `sigmas`.
        sigmas: (first, last, number) of a geometric sequence of which the noise input is the index.
        centered: False says that images and their noise are those of [0, 1]; they are mapped to
            [-1, 1] first.
        attention: where attention stands and how it looks.
        conditioning: how noise input and label reach the blocks.
        normalisation: the groups of group normalisation.
        pyramids: the images beside the network.
        resampling: how the resolution changes.
        residual: residual sums and what ends their branches.
        pad: rows and columns of zeros that are put on each side of an image on its way in, and cut
            off on its way out, so that images of other sizes have enough levels: 2 makes 32 pixels
            of 28. The network stays a function of the image alone, and so does every likelihood.
            `attn_resolutions` are heights with them.
        dtype: type of convolutions and attention, "float32" or "bfloat16". Parameters,
            normalisation, residual sums, embedding and output stay float32.
        remat: keep only the outputs of the blocks for the gradient and compute the rest again:
            a third more work. It is for accelerators: XLA's schedule on CPUs needs as much memory.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: a setting is out of range, or does not fit the shape or another setting.
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
        context: int = 0,
        cond_channels: int = 0,
        augmentation: int = 0,
        self_conditioning: bool = False,
        embedding: str = "log_noise",
        nonlinearity: str = "silu",
        scale_by_sigma: bool = False,
        sigmas: Sequence[float] | None = None,
        centered: bool = True,
        attention: AttentionSettings | Section | None = None,
        conditioning: ConditioningSettings | Section | None = None,
        normalisation: NormalisationSettings | Section | None = None,
        pyramids: PyramidSettings | Section | None = None,
        resampling: ResamplingSettings | Section | None = None,
        residual: ResidualSettings | Section | None = None,
        pad: int = 0,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        groups = as_groups(
            attention=attention,
            conditioning=conditioning,
            normalisation=normalisation,
            pyramids=pyramids,
            resampling=resampling,
            residual=residual,
        )
        levels = range(len(ch_mult))
        check_choice("nonlinearity", nonlinearity, ACTIVATIONS)
        check_at_least(0, pad=pad)
        padded = bordered_shape(tuple(shape), pad)
        check_image_shape(padded, len(levels), pad)
        check_widths(nf, ch_mult)
        check_at_least(1, num_res_blocks=num_res_blocks)
        check_dropout(dropout)
        check_division(scale_by_sigma, sigmas)
        check_embedding(embedding, num_classes, context, augmentation)
        heights = tuple(padded[0] >> level for level in levels)
        check_attention((*attn_resolutions, *(groups.attention.up_resolutions or ())), heights)

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
        self.centered = centered
        self.pad = pad
        self.remat = remat
        self.resblock_type = groups.resampling.resblock_type
        self.scale_by_sigma = scale_by_sigma
        self.sigmas = None if sigmas is None else tuple(sigmas)
        self.style = style_of(groups, nonlinearity, dropout, dtype)
        plan = Plan(
            channels=shape[-1],
            nf=nf,
            heights=heights,
            widths=tuple(round(nf * multiple) for multiple in ch_mult),
            num_res_blocks=num_res_blocks,
            emb_features=0 if embedding == "none" else 4 * nf,
            attn_resolutions=tuple(attn_resolutions),
            down_steps=groups.resampling.steps("down", len(levels) - 1),
            up_steps=groups.resampling.steps("up", len(levels) - 1),
            groups=groups,
            style=self.style,
            middle_style=middle_style_of(groups, self.style),
        )
        self._build(plan, embedding, rngs)

    def _build(self, plan: Plan, embedding: str, rngs: nnx.Rngs) -> None:
        """Make the parts of the network, in the order in which their random keys are drawn."""
        if embedding == "none":
            self.conditioning = None
        else:
            self.conditioning = conditioning_of(plan, embedding, self.condition_sizes, rngs)
        channels_in = plan.channels + self.condition_sizes.image
        channels_in += plan.channels * self.self_conditioning
        self.conv_in = self.style.conv(channels_in, plan.nf, 3, rngs)
        down, skips = down_path(plan, rngs)
        self.middle0, self.middle1 = middle(plan, rngs)
        self.down = nnx.List(down)
        self.up = nnx.List(up_path(plan, skips, rngs))
        if plan.groups.pyramids.output == "output_skip":  # whose image is the output
            self.norm_out = None
            self.conv_out = None
        else:
            width = plan.widths[0]
            scale = plan.groups.residual.init_scale
            self.norm_out = plan.middle_style.norm(width)
            in_float32 = self.style._replace(dtype=None)
            self.conv_out = in_float32.conv(width, plan.channels, 3, rngs, scale)

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
        emb = None
        if self.conditioning is not None:
            emb = self.conditioning(c_noise, given.label, given.context, given.augmentation)
            emb = self.style.act(emb)
        call = partial(run, remat=self.remat)
        x = x if self.centered else 2 * x - 1
        image = bordered(x, self.pad)
        inputs = with_image(x, given.image, self.condition_sizes.image)
        inputs = with_last(x, inputs, last, self.self_conditioning)
        h = widened(self.conv_in(bordered(inputs, self.pad)))
        h, skips = self._go_down(call, image, h, emb, rngs)
        h = call(self.middle0, h, emb, rngs)
        h = call(self.middle1, h, emb, rngs)
        y, h = self._go_up(call, h, skips, emb, rngs)
        if self.norm_out is not None and self.conv_out is not None:
            y = self.conv_out(self.style.act(self.norm_out(h)))
        y = without_border(y, self.pad)
        if not self.scale_by_sigma:
            return y
        return y / sigma_of(c_noise, self.sigmas)[:, None, None, None]

    def _go_down(
        self, call: Callable, image: Array, h: Array, emb: Array | None, rngs: nnx.Rngs | None
    ) -> tuple[Array, list[Array]]:
        """Return the state at the coarsest resolution, and the states that the way up needs."""
        skips = [h]
        for level in self.down:
            for block in level.blocks:
                h = call(block, h, emb, rngs)
                skips.append(h)
            if level.resample is not None:
                h = call(level.resample, h, emb, rngs)
                if level.merge is not None:
                    image, h = level.merge(image, h)
                skips.append(h)
        return h, skips

    def _go_up(
        self,
        call: Callable,
        h: Array,
        skips: list[Array],
        emb: Array | None,
        rngs: nnx.Rngs | None,
    ) -> tuple[Array, Array]:
        """Return the image that grows where there is an output pyramid, and the last state."""
        image = h  # the first level of a pyramid begins with an image of its own
        for level in self.up:
            for block in level.blocks:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = call(block, h, emb, rngs)
            if level.merge is not None:
                image, h = level.merge(image, h)
            if level.resample is not None:
                h = call(level.resample, h, emb, rngs)
        return image, h


def style_of(groups: Groups, nonlinearity: str, dropout: float, dtype: str) -> Style:
    """Return what the blocks outside of the middle have in common."""
    return Style(
        activation=nonlinearity,
        groups=groups.normalisation.groups,
        attention_groups=groups.normalisation.attention_groups,
        eps=groups.normalisation.eps,
        rescale=float(np.sqrt(2)) if groups.residual.skip_rescale else 1.0,
        dropout=dropout,
        init_scale=groups.residual.init_scale,
        scale_shift=groups.conditioning.scale_shift,
        head_features=groups.attention.head_features,
        fir=tuple(groups.resampling.kernel) if groups.resampling.fir else (),
        resampled_shortcut=groups.resampling.shortcut,
        dtype=compute_type(dtype),
    )


def middle_style_of(groups: Groups, style: Style) -> Style:
    """Return what the blocks in the middle have in common, given the style of the others."""
    if groups.residual.middle_rescale is not None:
        style = style._replace(rescale=float(groups.residual.middle_rescale))
    if groups.normalisation.middle_groups is not None:
        style = style._replace(groups=groups.normalisation.middle_groups, attention_groups=0)
    return style


def conditioning_of(
    plan: Plan, embedding: str, sizes: ConditionSizes, rngs: nnx.Rngs
) -> Conditioning:
    """Return the embedding of noise input, label, context and augmentation."""
    return Conditioning(
        plan.nf,
        plan.emb_features,
        embedding=embedding,
        num_classes=sizes.label,
        context=sizes.context,
        augmentation=sizes.augmentation,
        fourier_scale=plan.groups.conditioning.fourier_scale,
        label_into=plan.groups.conditioning.label_into,
        kernel_init=kernel_init(),
        activation=plan.style.act,
        rngs=rngs,
    )


def check_division(scale_by_sigma: bool, sigmas: Sequence[float] | None) -> None:
    """Raise a ValueError unless `sigmas` is a sequence that an output is divided by, or None."""
    check_sigmas(sigmas)
    if sigmas is not None and not scale_by_sigma:
        raise ValueError(
            "sigmas = (first, last, number) says what scale_by_sigma divides by; "
            f"got {sigmas}, {scale_by_sigma=}"
        )


def check_embedding(embedding: str, num_classes: int, context: int, augmentation: int) -> None:
    """Raise a ValueError if a network that embeds nothing shall be given something to embed."""
    if embedding == "none" and (num_classes or context or augmentation):
        raise ValueError(
            "a network without embedding takes no labels and no contexts, and is told of no "
            "augmentation; name an embedding, or build it with num_classes=0, context=0 and "
            "augmentation=0"
        )
