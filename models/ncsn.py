r"""The RefineNets of the first score-based models: NCSN (Song and Ermon 2019, arXiv:1907.05600, appendix A) and NCSNv2 (2020,
arXiv:2006.09011, appendix B).

A residual network goes down; where it would lose resolution twice more its convolutions are dilated instead. On the way up, `Refine` joins
each stage to what comes from below (Lin et al. 2017, arXiv:1611.06612). Each channel is normalised over its pixels, and what that loses,
the mean :math:`\mu_c`, comes back relative to the other channels' (InstanceNorm++),

.. math:: \gamma_c \Big(\frac{x_c - \mu_c}{s_c} + \alpha_c \frac{\mu_c - \bar\mu}{\operatorname{sd}(\mu)}\Big) + \beta_c .

NCSN keeps :math:`\gamma, \alpha, \beta` for each noise level and averages where it pools; NCSNv2 knows the level only by its output,
which it divides by sigma, normalises the residual network alone, and pools by maxima. sd has n - 1 in its denominator and images are
stretched corner to corner, as in the published PyTorch code (github.com/ermongroup/ncsnv2), whose weights these networks take.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .computing import compute_type, run
from .embedding import check_inputs, sigma_of
from .layers import ACTIVATIONS, widened
from .resample import downsample
from .settings import check_at_least, check_sigmas, check_widths

EPS = 1e-5
POOL = {"window_shape": (5, 5), "strides": (1, 1), "padding": "SAME"}


class Kind(NamedTuple):
    """What the blocks of a network have in common."""

    activation: str  # a name of ACTIVATIONS
    levels: int  # of noise that normalisation tells apart; 0: none, and none in the refining blocks
    dtype: Any = None  # of convolutions; None: that of parameters and input

    def act(self, x: Array) -> Array:
        """Apply the activation."""
        return ACTIVATIONS[self.activation](x)

    def norms(self, features: int, number: int, rngs: nnx.Rngs) -> list["InstanceNormPlus"]:
        """Return the normalisations of a refining block, which NCSNv2 has not."""
        return [
            InstanceNormPlus(features, self.levels, rngs=rngs)
            for _ in range(number if self.levels else 0)
        ]

    def conv(
        self,
        features_in: int,
        features_out: int,
        size: int = 3,
        dilation: int = 1,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> nnx.Conv:
        """Return a convolution that keeps the resolution; kernel and bias start uniform between +-fan_in^-1/2."""
        bound = (size * size * features_in) ** -0.5
        start = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)  # noqa: E731
        starts = {"kernel_init": start, "bias_init": start, "rngs": rngs}
        return nnx.Conv(
            features_in,
            features_out,
            (size, size),
            kernel_dilation=dilation,
            use_bias=bias,
            dtype=self.dtype,
            **starts,
        )


class InstanceNormPlus(nnx.Module):
    """InstanceNorm++ in float32, with a row (gamma, alpha, beta) for each of `levels` noise levels, or one row for all (0)."""

    def __init__(self, features: int, levels: int = 0, *, rngs: nnx.Rngs):
        self.levels = levels
        near_one = 1 + 0.02 * jax.random.normal(rngs.params(), (max(levels, 1), 2 * features))
        self.rows = nnx.Param(
            jnp.concatenate([near_one, jnp.zeros((max(levels, 1), features))], axis=1)
        )

    def __call__(self, x: Array, level: Array) -> Array:
        # of a level that is not in the table NaN: a loud answer where a traced value cannot raise
        rows = jnp.take(
            self.rows[...], level if self.levels else jnp.zeros_like(level), axis=0, mode="fill"
        )
        gamma, alpha, beta = jnp.split(rows[:, None, None], 3, axis=-1)
        wide = widened(x)
        mean = wide.mean((1, 2), keepdims=True)
        centred = wide - mean
        normal = centred * jax.lax.rsqrt((centred**2).mean((1, 2), keepdims=True) + EPS)
        apart = mean - mean.mean(-1, keepdims=True)
        spread = (apart**2).sum(-1, keepdims=True) / (x.shape[-1] - 1)
        return (gamma * (normal + alpha * apart * jax.lax.rsqrt(spread + EPS)) + beta).astype(
            x.dtype
        )


class Residual(nnx.Module):
    """Residual block; the `first` of a stage halves the resolution, or, dilated, keeps it."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kind: Kind,
        *,
        dilation: int,
        first: bool,
        rngs: nnx.Rngs,
    ):
        self.kind, self.halve = kind, first and dilation == 1
        norm, dilated = (
            partial(InstanceNormPlus, features_in, kind.levels, rngs=rngs),
            partial(kind.conv, dilation=dilation, rngs=rngs),
        )
        self.norm0, self.conv0 = norm(), dilated(features_in, features_in)
        self.norm1, self.conv1 = norm(), dilated(features_in, features_out)
        self.shortcut = (
            dilated(features_in, features_out, 1 if self.halve else 3) if first else None
        )

    def __call__(self, x: Array, level: Array) -> Array:
        act = self.kind.act
        h = self.conv1(act(self.norm1(self.conv0(act(self.norm0(x, level))), level)))
        x = x if self.shortcut is None else self.shortcut(x)
        x = widened(x) + widened(h)
        return downsample(x) if self.halve else x


class Units(nnx.Module):
    """Residual units one after the other, each of two convolutions."""

    def __init__(self, features: int, number: int, kind: Kind, *, rngs: nnx.Rngs):
        self.kind, self.number = kind, number
        self.norms = nnx.List(kind.norms(features, 2 * number, rngs))
        self.convs = nnx.List(
            [kind.conv(features, features, bias=False, rngs=rngs) for _ in range(2 * number)]
        )

    def __call__(self, x: Array, level: Array) -> Array:
        for i in range(self.number):
            h = x
            for j in (2 * i, 2 * i + 1):
                h = self.convs[j](self.kind.act(self.norms[j](h, level) if self.norms else h))
            x = x + widened(h)
        return x


class Refine(nnx.Module):
    """Join states of several resolutions at the finest of them, then spread what each place knows by pooling.

    `features_in` has the channels of each state; a single one must have `features_out`. `units`: residual units behind the pooling.
    """

    def __init__(
        self,
        features_in: Sequence[int],
        features_out: int,
        units: int,
        kind: Kind,
        *,
        rngs: nnx.Rngs,
    ):
        self.kind, joins = kind, len(features_in) > 1
        self.adapt = nnx.List([Units(f, 2, kind, rngs=rngs) for f in features_in])
        self.join_norms = nnx.List(
            [norm for f in features_in for norm in kind.norms(f, int(joins), rngs)]
        )
        self.join = nnx.List([kind.conv(f, features_out, rngs=rngs) for f in features_in if joins])
        self.pool_norms = nnx.List(kind.norms(features_out, 2, rngs))
        self.pool = nnx.List(
            [kind.conv(features_out, features_out, bias=False, rngs=rngs) for _ in range(2)]
        )
        self.out = Units(features_out, units, kind, rngs=rngs)

    def __call__(self, states: Sequence[Array], level: Array) -> Array:
        states = [adapt(h, level) for adapt, h in zip(self.adapt, states, strict=True)]
        if self.join:
            if self.join_norms:
                states = [norm(h, level) for norm, h in zip(self.join_norms, states, strict=True)]
            states = [
                stretched(widened(join(h)), states[0].shape[1:3])
                for join, h in zip(self.join, states, strict=True)
            ]
        x = path = self.kind.act(sum(states[1:], states[0]))
        for j, learned in enumerate(self.pool):
            if self.pool_norms:
                path = nnx.avg_pool(self.pool_norms[j](path, level), **POOL)
            else:
                path = nnx.max_pool(path, **POOL)
            path = widened(learned(path))
            x = x + path
        return self.out(x, level)


class NCSN(nnx.Module):
    """RefineNet for images of `shape` (height, width, channels): NCSNv2, or with `levels` > 0 NCSN.

    Published with nf 128 and, below 96 pixels, the widths and dilations that are the default; at 96 to 128 pixels NCSNv2 has ch_mult
    (1, 2, 2, 4, 4) and dilations (1, 1, 1, 2, 4), above (1, 2, 2, 2, 4, 4) and (1, 1, 1, 1, 2, 4).

    Args:
        ch_mult, dilations: of each stage; one with dilation 1, but for the first, halves the resolution.
        levels: how many noise levels normalisation tells apart; the noise input is then an index 0 .. levels - 1.
        nonlinearity: a name of ACTIVATIONS.
        scale_by_sigma, sigmas: divide the output by the noise input, or by the sigma of which it is the index, as in `UNet`.
        num_classes: must be 0, as these networks take no labels.
        centered: False: images and their noise are those of [0, 1]; they are mapped to [-1, 1] first.
        dtype: of convolutions; parameters, normalisation, sums, pooling and output stay float32.
        remat: keep only the blocks' outputs for the gradient and compute the rest again: less memory, a third more time.
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
        centered: bool = True,
        dtype: str = "float32",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if len(shape) != 3:
            raise ValueError(
                f"NCSN needs shape (height, width, channels), got {tuple(shape)}; use MLP for vectors"
            )
        if num_classes:
            raise ValueError(
                f"NCSN takes no labels, got num_classes = {num_classes}; use UNet, or num_classes >= 0 of another network"
            )
        if nonlinearity not in ACTIVATIONS:
            raise ValueError(
                f"unknown nonlinearity {nonlinearity!r}; choose one of {', '.join(ACTIVATIONS)}"
            )
        if nf < 2 or levels < 0:
            raise ValueError(f"need nf >= 2 and levels >= 0, got nf = {nf} and levels = {levels}")
        if len(ch_mult) < 2 or len(dilations) != len(ch_mult) or ch_mult[0] != 1:
            raise ValueError(
                f"need two or more stages, the first with ch_mult 1, and a dilation for each, got {ch_mult} and {dilations}"
            )
        check_widths(nf, ch_mult)
        check_sigmas(sigmas)
        check_at_least(1, **{f"dilations[{i}]": d for i, d in enumerate(dilations)})
        factor = 2 ** sum(d == 1 for d in dilations[1:])
        if shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"height and width must be multiples of {factor}, got {tuple(shape)}; pad or crop the images"
            )
        self.shape, self.num_classes, self.centered, self.remat = tuple(shape), 0, centered, remat
        self.scale_by_sigma, self.sigmas = scale_by_sigma, None if sigmas is None else tuple(sigmas)
        self.kind = kind = Kind(nonlinearity, levels, compute_type(dtype))
        widths, channels = [nf * m for m in ch_mult], shape[-1]
        self.conv_in = kind.conv(channels, nf, rngs=rngs)
        stages, before = [], nf
        for i, (width, dilation) in enumerate(zip(widths, dilations, strict=True)):
            block = partial(Residual, features_out=width, kind=kind, dilation=dilation, rngs=rngs)
            stages.append(nnx.List([block(before, first=i > 0), block(width, first=False)]))
            before = width
        refine, below = [], []
        for i in reversed(range(len(widths))):
            out = widths[-1] if not below else widths[max(i - 1, 0)]
            refine.append(Refine([widths[i], *below], out, 1 if i else 3, kind, rngs=rngs))
            below = [out]
        self.stages, self.refine = nnx.List(stages), nnx.List(refine)
        self.norm_out = InstanceNormPlus(nf, levels, rngs=rngs)
        self.conv_out = kind._replace(dtype=None).conv(nf, channels, rngs=rngs)

    def __call__(
        self, x: Array, c_noise: Array, cond: Array | None = None, *, rngs: nnx.Rngs | None = None
    ) -> Array:
        """Map x (batch, height, width, channels) at noise inputs c_noise (batch,) to an array like x."""
        check_inputs(x, c_noise, cond, self.shape, 0)
        level = c_noise.astype(int)
        h, kept = widened(self.conv_in(x if self.centered else 2 * x - 1)), []
        for stage in self.stages:
            for block in stage:
                h = run(block, h, level, remat=self.remat)
            kept.append(h)
        below = []
        for refine in self.refine:
            h = run(refine, [kept.pop(), *below], level, remat=self.remat)
            below = [h]
        h = self.conv_out(self.kind.act(self.norm_out(h, level)))
        return h / sigma_of(c_noise, self.sigmas)[:, None, None, None] if self.scale_by_sigma else h


def stretched(x: Array, size: Sequence[int]) -> Array:
    """Interpolate images linearly to `size` (height, width), corner pixels on corner pixels."""
    for axis, (have, want) in enumerate(zip(x.shape[1:3], size, strict=True), start=1):
        if have != want:
            place = np.arange(want) * (have - 1) / (want - 1)
            weight = np.maximum(1 - np.abs(place[:, None] - np.arange(have)), 0)
            x = jnp.moveaxis(jnp.tensordot(jnp.asarray(weight, x.dtype), x, (1, axis)), 0, axis)
    return x
