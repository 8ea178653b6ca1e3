r"""The image beside the U-Net: "progressive growing" in one network (Song et al. 2021, arXiv:2011.13456, appendix H; Karras et al. 2020,
arXiv:1912.04958, figure 7).

On the way down the noisy image, made smaller level by level, is given to each level anew. On the way up each level adds its part to an
image that grows. Either image has the channels of the data ("skip"), or is itself a state of the network's width ("residual").
Every merge takes (pyramid, h) and returns both.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .layers import Style, kernel_init
from .resample import Resample


def resample_with(
    style: Style,
    direction: str,
    features_in: int = 0,
    features_out: int = 0,
    *,
    rngs: nnx.Rngs,
    **settings,
) -> Resample:
    """Return a `Resample` in the style of a network."""
    init = kernel_init()
    return Resample(
        direction, features_in, features_out, fir=style.fir, kernel_init=init, dtype=style.dtype, rngs=rngs, **settings
    )  # fmt: skip


class InputSkip(nnx.Module):
    """Halve the image and give it to the state through a 1 x 1 convolution: by "sum", or side by side ("cat")."""

    def __init__(
        self, image_features: int, features: int, style: Style, combine: str, *, rngs: nnx.Rngs
    ):
        self.combine = combine
        self.features_out = features * (2 if combine == "cat" else 1)
        self.down = resample_with(style, "down", rngs=rngs)
        self.conv = style.conv(image_features, features, 1, rngs)

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        pyramid = self.down(pyramid)
        seen = self.conv(pyramid)
        return pyramid, h + seen if self.combine == "sum" else jnp.concatenate([seen, h], axis=-1)


class InputResidual(nnx.Module):
    """Halve the pyramid with a convolution and add the state: the sum is both."""

    def __init__(self, image_features: int, features: int, style: Style, *, rngs: nnx.Rngs):
        self.style = style
        self.features_out = features
        self.down = resample_with(style, "down", image_features, features, rngs=rngs)

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        h = self.style.residual_sum(self.down(pyramid), h)
        return h, h


class OutputSkip(nnx.Module):
    """Double the image, if there is one yet, and add what the state has to say at this resolution."""

    def __init__(
        self, features: int, image_features: int, style: Style, *, first: bool, rngs: nnx.Rngs
    ):
        self.style = style
        self.up = None if first else resample_with(style, "up", rngs=rngs)
        self.norm = style.norm(features)
        self.conv = style._replace(dtype=None).conv(
            features, image_features, 3, rngs, style.init_scale
        )

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        own = self.conv(self.style.act(self.norm(h)))
        return own if self.up is None else self.up(pyramid) + own, h


class OutputResidual(nnx.Module):
    """Double the pyramid with a convolution and add the state: the sum is both. The first one is made of the state."""

    def __init__(
        self, features_pyramid: int, features: int, style: Style, *, first: bool, rngs: nnx.Rngs
    ):
        self.style = style
        self.norm = style.norm(features) if first else None
        self.conv = style.conv(features, features, 3, rngs) if first else None
        self.up = (
            None if first else resample_with(style, "up", features_pyramid, features, rngs=rngs)
        )

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        if self.norm is not None and self.conv is not None:
            return self.conv(self.style.act(self.norm(h))), h
        h = self.style.residual_sum(self.up(pyramid), h)  # pyright: ignore[reportOptionalCall]
        return h, h
