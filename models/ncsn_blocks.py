"""The blocks of a RefineNet: residual ones on the way down, refining ones on the way up.

They are those of NCSN (Song and Ermon 2019, arXiv:1907.05600, appendix A) and NCSNv2 (Song and
Ermon 2020, arXiv:2006.09011, appendix B); see `models.ncsn`. Images are stretched corner to corner,
as in the published PyTorch code (github.com/ermongroup/ncsnv2).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .instance_norm import InstanceNormPlus, Steering
from .layers import ACTIVATIONS, widened
from .resample import downsample

POOL = {"window_shape": (5, 5), "strides": (1, 1), "padding": "SAME"}


class Kind(NamedTuple):
    """What the blocks of a network have in common."""

    activation: str  # a name of ACTIVATIONS
    levels: int  # of noise that normalisation distinguishes; 0: NCSNv2, which has one set for all
    dtype: Any = None  # of convolutions; None: that of parameters and input
    context: int = 0  # features of the embedding of a context; 0: none

    def act(self, x: Array) -> Array:
        """Apply the activation, element by element."""
        return ACTIVATIONS[self.activation](x)

    def norm(self, features: int, rngs: nnx.Rngs) -> InstanceNormPlus:
        """Return a normalisation."""
        return InstanceNormPlus(features, self.levels, self.context, rngs=rngs)

    def norms(self, features: int, number: int, rngs: nnx.Rngs) -> list[InstanceNormPlus]:
        """Return the normalisations of a refining block, of which NCSNv2 has none."""
        if not self.levels:
            return []
        return [self.norm(features, rngs) for _ in range(number)]

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
        """Return a size x size convolution that keeps the resolution.

        Its kernel and bias start uniform between +-fan_in^-1/2, as PyTorch's do.
        """
        bound = (size * size * features_in) ** -0.5

        def start(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return nnx.Conv(
            features_in,
            features_out,
            (size, size),
            kernel_dilation=dilation,
            use_bias=bias,
            dtype=self.dtype,
            kernel_init=start,
            bias_init=start,
            rngs=rngs,
        )


class Residual(nnx.Module):
    """Residual block of a stage.

    Args:
        features_in: channels of the state.
        features_out: channels of the result.
        kind: what the blocks of the network have in common.
        dilation: of the convolutions.
        first: whether the block begins a stage after the first one. It halves the resolution then,
            or keeps it if it is dilated.
        rngs: the random keys of the parameters.
    """

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
        norm = partial(kind.norm, features_in, rngs)
        conv = partial(kind.conv, dilation=dilation, rngs=rngs)
        self.kind = kind
        self.halve = first and dilation == 1
        self.norm0 = norm()
        self.conv0 = conv(features_in, features_in)
        self.norm1 = norm()
        self.conv1 = conv(features_in, features_out)
        size = 1 if self.halve else 3
        self.shortcut = conv(features_in, features_out, size) if first else None

    def __call__(self, x: Array, steering: Steering) -> Array:
        """Map a state (batch, height, width, features_in) to the next one."""
        act = self.kind.act
        h = self.conv0(act(self.norm0(x, steering)))
        h = self.conv1(act(self.norm1(h, steering)))
        x = x if self.shortcut is None else self.shortcut(x)
        x = widened(x) + widened(h)
        return downsample(x) if self.halve else x


class Units(nnx.Module):
    """Residual units one after the other, each of two convolutions.

    Args:
        features: number of channels.
        number: number of units.
        kind: what the blocks of the network have in common.
        rngs: the random keys of the parameters.
    """

    def __init__(self, features: int, number: int, kind: Kind, *, rngs: nnx.Rngs):
        conv = partial(kind.conv, features, features, bias=False, rngs=rngs)
        self.kind = kind
        self.number = number
        self.norms = nnx.List(kind.norms(features, 2 * number, rngs))
        self.convs = nnx.List([conv() for _ in range(2 * number)])

    def __call__(self, x: Array, steering: Steering) -> Array:
        """Map a state (batch, height, width, features) to the next one."""
        for i in range(self.number):
            h = x
            for j in (2 * i, 2 * i + 1):
                h = self.norms[j](h, steering) if self.norms else h
                h = self.convs[j](self.kind.act(h))
            x = x + widened(h)
        return x


class Refine(nnx.Module):
    """Join states of several resolutions at the finest of them, then pool over neighbouring pixels.

    Args:
        features_in: channels of each state, the finest first; a single one must have
            `features_out`.
        features_out: channels of the result.
        units: number of residual units behind the pooling.
        kind: what the blocks of the network have in common.
        rngs: the random keys of the parameters.
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
        self.kind = kind
        self.adapt = nnx.List([Units(f, 2, kind, rngs=rngs) for f in features_in])
        joined = features_in if len(features_in) > 1 else ()
        norms = [norm for f in joined for norm in kind.norms(f, 1, rngs)]
        self.join_norms = nnx.List(norms)
        self.join = nnx.List([kind.conv(f, features_out, rngs=rngs) for f in joined])
        conv = partial(kind.conv, features_out, features_out, bias=False, rngs=rngs)
        self.pool_norms = nnx.List(kind.norms(features_out, 2, rngs))
        self.pool = nnx.List([conv() for _ in range(2)])
        self.out = Units(features_out, units, kind, rngs=rngs)

    def __call__(self, states: Sequence[Array], steering: Steering) -> Array:
        """Map states (batch, height, width, channels) to one.

        The finest state comes first, and the result has its resolution.
        """
        states = [adapt(h, steering) for adapt, h in zip(self.adapt, states, strict=True)]
        x = self.kind.act(self._joined(states, steering))
        path = x
        for j, conv in enumerate(self.pool):
            if self.pool_norms:
                path = nnx.avg_pool(self.pool_norms[j](path, steering), **POOL)
            else:
                path = nnx.max_pool(path, **POOL)
            path = widened(conv(path))
            x = x + path
        return self.out(x, steering)

    def _joined(self, states: list[Array], steering: Steering) -> Array:
        """Return the sum of the states at the resolution of the first."""
        size = states[0].shape[1:3]
        if self.join_norms:
            states = [norm(h, steering) for norm, h in zip(self.join_norms, states, strict=True)]
        if self.join:
            states = [
                stretched(widened(join(h)), size) for join, h in zip(self.join, states, strict=True)
            ]
        return sum(states[1:], states[0])


def stretched(x: Array, size: Sequence[int]) -> Array:
    """Interpolate images (batch, height, width, channels) linearly to `size` (height, width).

    Corner pixels come to lie on corner pixels.
    """
    for axis, (old, new) in enumerate(zip(x.shape[1:3], size, strict=True), start=1):
        if old != new:
            place = np.arange(new) * (old - 1) / (new - 1)
            distance = np.abs(place[:, None] - np.arange(old))
            weight = np.maximum(1 - distance, 0)
            x = jnp.tensordot(jnp.asarray(weight, x.dtype), x, (1, axis))
            x = jnp.moveaxis(x, 0, axis)
    return x
