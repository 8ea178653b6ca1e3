r"""Augmentation that does not leak into samples, because the network is told of it.

Training images are mirrored, turned, scaled, stretched and moved at random, and what was done is
told to the network, beside the noise level. So it learns the score of the images under each
augmentation, and of the images as they are when it is told zeros, as for samples and likelihoods
(Karras et al. 2022, arXiv:2206.00364, appendix F.2; Jun et al. 2020, ICML).

Nine numbers :math:`a_0 \dots a_8` describe the map :math:`q = A p + b` of a point, in pixels from
the centre (`affine`). It is composed in this order:

- mirroring x and y: :math:`\mathrm{diag}(1 - 2 a_0, 1 - 2 a_1)`, with :math:`a_0, a_1` 0 or 1;
- scaling: :math:`2^{a_2 / 5}`, with :math:`a_2 \sim N(0, 1)`;
- turning by a uniform :math:`\phi`: :math:`a_3 = \cos\phi - 1,\ a_4 = \sin\phi`;
- stretching: :math:`\exp\big(\tfrac{\ln 2}{5} [[a_5, a_6], [a_6, -a_5]]\big)`;
- moving: :math:`(a_7 W, a_8 H) / 8`, with :math:`a_7, a_8 \sim N(0, 1)`.

Each of the six (mirroring counts twice) is drawn with the given probability, and left out, with
zeros, otherwise. Stretching is by :math:`2^{w/5}` along a direction :math:`\psi` and by its inverse
across, with :math:`w \sim N(0, 1)`, :math:`\psi` uniform, and
:math:`(a_5, a_6) = w (\cos 2\psi, \sin 2\psi)`. That differs from EDM in two ways.
EDM tells :math:`w (\cos\psi, \sin\psi)`, which is the same for :math:`(w, \psi)` and
:math:`(-w, \psi + \pi)`, a stretch and a squeeze along one direction; here the numbers alone decide
the map, and the map is computed from them. And EDM mirrors in x always, here it is one augmentation
of six.

It is the model values that are augmented, with their dequantisation noise. Interpolated values are
no grey levels any more, but a network that is told zeros models the dequantised grey levels alone,
so that likelihoods are what they were.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .affine import resample

AUGMENTATION = "augmentation"  # the place of the numbers in a batch and among conditions
NUMBERS = 9
KINDS = np.array([0, 1, 2, 3, 3, 4, 4, 5, 5])  # which of the six augmentations a number describes
OCTAVES = 0.2  # standard deviation of the binary logarithm of scaling and stretching
SHIFT = 1 / 8  # standard deviation of moving, in widths and heights of the image


def augmented(key: Array, batch: dict, probability: float) -> dict:
    """Return a batch whose images are augmented, with the numbers that describe how.

    Args:
        key: draws the augmentations.
        batch: with images "x" (batch, height, width, channels); images that are conditions, "cond",
            of this height and width, are augmented alike.
        probability: of each augmentation.

    Returns:
        The batch, with "augmentation" (batch, 9). Images whose numbers are zeros are bitwise those
        that were given.
    """
    numbers = draw_augmentations(key, len(batch["x"]), probability)
    given = {name: batch[name] for name in ("x", "cond") if name in batch}
    images = {name: augment(x, numbers) for name, x in given.items() if x.ndim == 4}
    return batch | images | {AUGMENTATION: numbers}


def draw_augmentations(key: Array, count: int, probability: float) -> Array:
    """Return the numbers that describe `count` random augmentations, (count, 9)."""
    for_kinds, for_mirrors, for_normals, for_angles = jax.random.split(key, 4)
    mirrors = jax.random.bernoulli(for_mirrors, 0.5, (count, 2)).astype(jnp.float32)
    scale, stretch, *move = jax.random.normal(for_normals, (count, 4)).T
    turn, twice_direction = jax.random.uniform(
        for_angles, (count, 2), minval=-jnp.pi, maxval=jnp.pi
    ).T
    numbers = jnp.stack(
        [
            *mirrors.T,
            scale,
            jnp.cos(turn) - 1,
            jnp.sin(turn),
            stretch * jnp.cos(twice_direction),
            stretch * jnp.sin(twice_direction),
            *move,
        ],
        axis=1,
    )
    chosen = jax.random.bernoulli(for_kinds, probability, (count, 6))
    return jnp.where(chosen[:, KINDS], numbers, 0.0)


def augment(images: Array, numbers: Array) -> Array:
    """Return images under the augmentations that numbers (batch, 9) describe.

    Images (batch, height, width, channels) whose numbers are zeros stay bitwise as they are.
    """
    height, width = images.shape[1:3]
    shift = SHIFT * numbers[:, 7:] * jnp.array([[width, height]])
    moved = resample(images, linear_map(numbers), shift)
    touched = jnp.any(numbers != 0, axis=1)
    return jnp.where(touched[:, None, None, None], moved, images)


def linear_map(numbers: Array) -> Array:
    """Return the matrix A (batch, 2, 2) of augmentations (batch, 9)."""
    mirror_x, mirror_y, scale, cos_less_1, sin, along, across, _, _ = numbers.T
    factor = 2 ** (OCTAVES * scale)
    mirrored = [factor * (1 - 2 * mirror_x), factor * (1 - 2 * mirror_y)]
    turned = _matrices(1 + cos_less_1, -sin, sin, 1 + cos_less_1) * jnp.stack(mirrored, -1)[:, None]
    return jnp.einsum("bij,bjk->bik", _stretch(along, across), turned, precision="highest")


def _stretch(along: Array, across: Array) -> Array:
    """Return the exponential of OCTAVES log 2 [[along, across], [across, -along]], (batch, 2, 2).

    The square of that matrix is a multiple of the identity, so that its exponential is a sum of the
    two.
    """
    size = jnp.hypot(along, across)
    log_factor = OCTAVES * np.log(2) * size
    of_direction = jnp.sinh(log_factor) / jnp.where(size > 0, size, 1.0)
    even = jnp.cosh(log_factor)
    a, b = of_direction * along, of_direction * across
    return _matrices(even + a, b, b, even - a)


def _matrices(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Return the matrices [[a, b], [c, d]], (batch, 2, 2)."""
    return jnp.stack([jnp.stack([a, b], -1), jnp.stack([c, d], -1)], -2)
