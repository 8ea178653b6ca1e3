r"""A small conditional flow for variational dequantisation (Ho et al. 2019, arXiv:1902.00275).

It says where between two grey levels a value lies.

Given an image k, standard normal z is moved by affine couplings, each of which changes one half of
a checkerboard as the other half and k say, and squeezed into the unit cube:

.. math:: z \leftarrow z \odot e^{s} + b \text{ on one half}, \qquad
    u = \operatorname{sigmoid}(z), \qquad
    \log q(u \mid k) = \log \mathcal N(z_{\text{start}}) - \sum s - \sum \log u (1 - u) .

It starts near the uniform distribution: a normal of sd 1.6 through the sigmoid is one but for 0.03
nat a value.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

START_SD = 1.6  # of the normal closest to the logistic distribution, whose sigmoid is uniform


class Coupling(nnx.Module):
    """Scale and shift of every value from a masked z and the image."""

    def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs):
        self.conv0 = nnx.Conv(2 * channels, width, (3, 3), rngs=rngs)
        self.conv1 = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(
            width, 2 * channels, (3, 3), kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, z: Array, image: Array) -> tuple[Array, Array]:
        """Return log scale and shift, each shaped as `z` and `image` (batch, H, W, C)."""
        h = nnx.silu(self.conv0(jnp.concatenate([z, image], axis=-1)))
        scale, shift = jnp.split(self.conv2(nnx.silu(self.conv1(h))), 2, axis=-1)
        return 2 * jnp.tanh(scale / 2), shift


class DequantisingFlow(nnx.Module):
    """The distribution q(u | k) of images of `shape` (H, W, C).

    It is made of `layers` couplings of `width` features.
    """

    def __init__(self, shape: Sequence[int], *, width: int = 32, layers: int = 4, rngs: nnx.Rngs):
        if len(shape) != 3:
            raise ValueError(
                "the flow is made of convolutions and needs images (H, W, C), got shape "
                f"{tuple(shape)}"
            )
        self.couplings = nnx.List([Coupling(shape[-1], width, rngs=rngs) for _ in range(layers)])

    def __call__(self, z: Array, image: Array) -> tuple[Array, Array]:
        """Map standard normal z to u in (0, 1), both (batch, H, W, C), for `image` in [-1, 1].

        Return u and log q(u | image), (batch,).
        """
        axes = (1, 2, 3)
        rows, columns = np.indices(z.shape[1:3])
        odd = jnp.asarray((rows + columns)[None, :, :, None] % 2, z.dtype)
        log_q = -jnp.sum(0.5 * z**2 + 0.5 * jnp.log(2 * jnp.pi) + jnp.log(START_SD), axes)
        z = START_SD * z
        for i, coupling in enumerate(self.couplings):
            fixed = odd if i % 2 else 1 - odd  # the half of the checkerboard that stays
            log_scale, shift = coupling(fixed * z, image)
            z = fixed * z + (1 - fixed) * (z * jnp.exp(log_scale) + shift)
            log_q -= jnp.sum((1 - fixed) * log_scale, axes)
        # log u (1 - u) = -softplus(z) - softplus(-z), also where u rounds to 0 or 1
        log_q += jnp.sum(jax.nn.softplus(z) + jax.nn.softplus(-z), axes)
        return jax.nn.sigmoid(z), log_q
