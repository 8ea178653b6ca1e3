r"""The images beside the U-Net: "progressive growing" in one network.

They are those of Song et al. 2021 (arXiv:2011.13456, appendix H) after Karras et al. 2020
(arXiv:1912.04958, figure 7). On the way down the noisy image is made smaller level by level and
given to each level anew. On the way up each level adds its part to an image that grows. Either
image has the channels of the data ("skip"), or is itself a state of the network's width
("residual").

Every module here takes (pyramid, h), the image and the state at one resolution, both
(batch, height, width, channels), and returns the next image and state.
"""

from typing import Any

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
    **settings: Any,
) -> Resample:
    """Return a `Resample` in the style of a network; `settings` are others of that class."""
    return Resample(
        direction,
        features_in,
        features_out,
        fir=style.fir,
        kernel_init=kernel_init(),
        dtype=style.dtype,
        rngs=rngs,
        **settings,
    )


class InputSkip(nnx.Module):
    """Halve the image and give it to the state through a 1 x 1 convolution.

    Args:
        image_features: channels of the image.
        features: channels of the state.
        style: what the blocks of the network have in common.
        combine: "sum" adds the two, "cat" puts them side by side.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self, image_features: int, features: int, style: Style, combine: str, *, rngs: nnx.Rngs
    ):
        self.combine = combine
        self.features_out = features * (2 if combine == "cat" else 1)
        self.down = resample_with(style, "down", rngs=rngs)
        self.conv = style.conv(image_features, features, 1, rngs)

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        """Return the halved image and the state that has seen it."""
        pyramid = self.down(pyramid)
        image = self.conv(pyramid)
        if self.combine == "sum":
            return pyramid, h + image
        return pyramid, jnp.concatenate([image, h], axis=-1)


class InputResidual(nnx.Module):
    """Halve the image with a convolution and add the state: the sum is both.

    Args:
        image_features: channels of the image.
        features: channels of the state.
        style: what the blocks of the network have in common.
        rngs: the random keys of the parameters.
    """

    def __init__(self, image_features: int, features: int, style: Style, *, rngs: nnx.Rngs):
        self.style = style
        self.features_out = features
        self.down = resample_with(style, "down", image_features, features, rngs=rngs)

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        """Return the sum twice, as the next image and as the state."""
        h = self.style.residual_sum(self.down(pyramid), h)
        return h, h


class OutputSkip(nnx.Module):
    """Double the image, if there is one yet, and add the part of the state at this resolution.

    Args:
        features: channels of the state.
        image_features: channels of the image.
        style: what the blocks of the network have in common.
        first: whether this is the coarsest level, where there is no image yet.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self, features: int, image_features: int, style: Style, *, first: bool, rngs: nnx.Rngs
    ):
        self.style = style
        self.up = None if first else resample_with(style, "up", rngs=rngs)
        self.norm = style.norm(features)
        wide = style._replace(dtype=None)
        self.conv = wide.conv(features, image_features, 3, rngs, style.init_scale)

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        """Return the image with the part of this resolution, and the state as it is."""
        part = self.conv(self.style.act(self.norm(h)))
        if self.up is None:
            return part, h
        return self.up(pyramid) + part, h


class OutputResidual(nnx.Module):
    """Double the image with a convolution and add the state: the sum is both.

    The first image is made of the state alone.

    Args:
        image_features: channels of the image; not used by the first one.
        features: channels of the state.
        style: what the blocks of the network have in common.
        first: whether this is the coarsest level, where there is no image yet.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self, image_features: int, features: int, style: Style, *, first: bool, rngs: nnx.Rngs
    ):
        self.style = style
        if first:
            self.norm = style.norm(features)
            self.conv = style.conv(features, features, 3, rngs)
            self.up = None
        else:
            self.norm = None
            self.conv = None
            self.up = resample_with(style, "up", image_features, features, rngs=rngs)

    def __call__(self, pyramid: Array, h: Array) -> tuple[Array, Array]:
        """Return the next image, and the state as it is (the first one) or the image as both."""
        if self.norm is not None and self.conv is not None:
            return self.conv(self.style.act(self.norm(h))), h
        h = self.style.residual_sum(self.up(pyramid), h)  # pyright: ignore[reportOptionalCall]
        return h, h
