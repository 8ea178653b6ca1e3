r"""The RefineNets of the first score-based models.

These are NCSN (Song and Ermon 2019, arXiv:1907.05600, appendix A) and NCSNv2 (Song and Ermon 2020,
arXiv:2006.09011, appendix B).

A residual network goes down. Where it would halve the resolution twice more, its convolutions are
dilated instead. On the way up, `Refine` joins each stage to the result of the coarser ones (Lin et
al. 2017, arXiv:1611.06612). Each channel is normalised over its pixels (`models.instance_norm`).

NCSN has a :math:`\gamma, \alpha, \beta` for each noise level, and pools by means. NCSNv2 knows the
noise level only by its output, which it divides by sigma; it normalises the residual network alone,
and pools by maxima. These networks take the weights of the published PyTorch code
(github.com/ermongroup/ncsnv2).

A context, which they were not published with, is embedded and adds to
:math:`\gamma, \alpha, \beta` of every normalisation, nothing at first.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flax import nnx
from jax import Array

from .computing import compute_type, run
from .conditions import ConditionSizes, with_image, with_last
from .context import ContextEmbedding
from .embedding import check_state, sigma_of
from .instance_norm import Steering
from .layers import ACTIVATIONS, kernel_init, widened
from .ncsn_blocks import Kind, Refine, Residual
from .settings import check_at_least, check_choice, check_sigmas, check_widths


class NCSN(nnx.Module):
    """RefineNet for images of `shape` (height, width, channels): NCSNv2, or with `levels` > 0 NCSN.

    Published with nf 128 and, below 96 pixels, the widths and dilations of the defaults. NCSNv2 has
    ch_mult (1, 2, 2, 4, 4) and dilations (1, 1, 1, 2, 4) at 96 to 128 pixels, and above that
    (1, 2, 2, 2, 4, 4) and (1, 1, 1, 1, 2, 4).

    Args:
        shape: (height, width, channels) of an image.
        nf: channels of the first stage.
        ch_mult: channels of each stage, as multiples of `nf`.
        dilations: dilation of the convolutions of each stage. A stage after the first one with
            dilation 1 halves the resolution.
        levels: number of noise levels that normalisation distinguishes; the noise input is then an
            index 0 .. levels - 1.
        nonlinearity: a name of `ACTIVATIONS`.
        scale_by_sigma: divide the output by the noise input, or by the sigma that it is the index
            of, if there are `sigmas`.
        sigmas: (first, last, number) of a geometric sequence of which the noise input is the index.
        num_classes: must be 0, as these networks take no labels.
        context: features of a context, a vector or a set of vectors; 0 for a network without.
        cond_channels: channels of an image that is a condition; 0 for a network without.
        self_conditioning: take the last estimate of the clean data as further channels.
        centered: False says that images and their noise are those of [0, 1]; they are mapped to
            [-1, 1] first.
        dtype: type of convolutions, "float32" or "bfloat16". Parameters, normalisation, sums,
            pooling and output stay float32.
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
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 2, 4),
        levels: int = 0,
        nonlinearity: str = "elu",
        scale_by_sigma: bool = True,
        sigmas: Sequence[float] | None = None,
        num_classes: int = 0,
        context: int = 0,
        cond_channels: int = 0,
        self_conditioning: bool = False,
        centered: bool = True,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        check_image(tuple(shape), num_classes)
        check_choice("nonlinearity", nonlinearity, ACTIVATIONS)
        if nf < 2 or levels < 0:
            raise ValueError(f"need nf >= 2 and levels >= 0, got nf = {nf} and levels = {levels}")
        check_stages(tuple(shape), nf, ch_mult, dilations)
        check_sigmas(sigmas)
        embedded = 4 * nf if context else 0
        kind = Kind(
            activation=nonlinearity, levels=levels, dtype=compute_type(dtype), context=embedded
        )
        self.shape = tuple(shape)
        self.num_classes = 0
        self.condition_sizes = ConditionSizes(context=context, image=cond_channels)
        self.condition_sizes.check()
        self.self_conditioning = self_conditioning
        self.centered = centered
        self.remat = remat
        self.scale_by_sigma = scale_by_sigma
        self.sigmas = None if sigmas is None else tuple(sigmas)
        self.kind = kind
        widths = [nf * multiple for multiple in ch_mult]
        channels = shape[-1]
        channels_in = channels + cond_channels + channels * self_conditioning
        self.conv_in = kind.conv(channels_in, nf, rngs=rngs)
        self.stages = nnx.List(stages_of(nf, widths, dilations, kind, rngs))
        self.refine = nnx.List(refinements_of(widths, kind, rngs))
        self.norm_out = kind.norm(nf, rngs)
        self.conv_out = kind._replace(dtype=None).conv(nf, channels, rngs=rngs)
        embed = partial(ContextEmbedding, kernel_init=kernel_init(), activation=kind.act, rngs=rngs)
        self.context = embed(context, embedded) if context else None

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
            cond: contexts (batch, features) or (batch, members, features), images (batch, height,
                width, channels), a dictionary of both, or None; see `models.conditions`.
            last: with self-conditioning, the last estimate of the clean data, like x; None: zeros.
            rngs: not used, as these networks have no dropout.

        Raises:
            ValueError: an argument has another shape or type, or there are labels.
        """
        check_state(x, c_noise, self.shape)
        given = self.condition_sizes.read(cond, x)
        steering = Steering(level=c_noise.astype(int), context=None)
        if self.context is not None:
            embedding = self.kind.act(self.context(given.context, len(x)))
            steering = steering._replace(context=embedding)
        x = x if self.centered else 2 * x - 1
        inputs = with_image(x, given.image, self.condition_sizes.image)
        inputs = with_last(x, inputs, last, self.self_conditioning)
        h = widened(self.conv_in(inputs))
        skips = []
        for stage in self.stages:
            for block in stage:
                h = run(block, h, steering, remat=self.remat)
            skips.append(h)
        coarser = []
        for refine in self.refine:
            h = run(refine, [skips.pop(), *coarser], steering, remat=self.remat)
            coarser = [h]
        y = self.conv_out(self.kind.act(self.norm_out(h, steering)))
        if not self.scale_by_sigma:
            return y
        return y / sigma_of(c_noise, self.sigmas)[:, None, None, None]


def stages_of(
    nf: int, widths: Sequence[int], dilations: Sequence[int], kind: Kind, rngs: nnx.Rngs
) -> list[nnx.List]:
    """Return the stages on the way down, of two residual blocks each.

    Args:
        nf: channels in front of the first stage.
        widths: channels of each stage.
        dilations: of each stage.
        kind: what the blocks of the network have in common.
        rngs: the random keys of the parameters.
    """
    stages = []
    before = nf
    for i, (width, dilation) in enumerate(zip(widths, dilations, strict=True)):
        block = partial(Residual, features_out=width, kind=kind, dilation=dilation, rngs=rngs)
        first = block(before, first=i > 0)
        second = block(width, first=False)
        stages.append(nnx.List([first, second]))
        before = width
    return stages


def refinements_of(widths: Sequence[int], kind: Kind, rngs: nnx.Rngs) -> list[Refine]:
    """Return what joins the stages on the way up, from the coarsest to the finest.

    Args:
        widths: channels of each stage, from the finest to the coarsest.
        kind: what the blocks of the network have in common.
        rngs: the random keys of the parameters.
    """
    refinements = []
    coarser = []
    for i in reversed(range(len(widths))):
        features_out = widths[max(i - 1, 0)] if coarser else widths[-1]
        units = 1 if i else 3
        refinements.append(Refine([widths[i], *coarser], features_out, units, kind, rngs=rngs))
        coarser = [features_out]
    return refinements


def check_image(shape: tuple[int, ...], num_classes: int) -> None:
    """Raise a ValueError unless the data are images (height, width, channels) without labels."""
    if len(shape) != 3:
        raise ValueError(
            f"NCSN needs shape (height, width, channels), got {shape}; use MLP for vectors"
        )
    if num_classes:
        raise ValueError(
            f"NCSN takes no labels, got num_classes = {num_classes}; "
            "use UNet, or num_classes >= 0 of another network"
        )


def check_stages(
    shape: tuple[int, ...], nf: int, ch_mult: Sequence[int], dilations: Sequence[int]
) -> None:
    """Raise a ValueError unless there can be these stages, and `shape` be halved by them."""
    if len(ch_mult) < 2 or len(dilations) != len(ch_mult) or ch_mult[0] != 1:
        raise ValueError(
            "need two or more stages, the first with ch_mult 1, and a dilation for each, "
            f"got {ch_mult} and {dilations}"
        )
    check_widths(nf, ch_mult)
    check_at_least(1, **{f"dilations[{i}]": d for i, d in enumerate(dilations)})
    factor = 2 ** sum(d == 1 for d in dilations[1:])
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"height and width must be multiples of {factor}, got {shape}; pad or crop the images"
        )
