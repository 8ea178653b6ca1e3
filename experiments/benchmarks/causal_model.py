"""A small autoregressive model of grey levels: a multilayer perceptron over the pixels before.

Pixels come row by row, the channels of a pixel one after the other. The distribution of a value is
a softmax over its levels, given the pixels of a neighbourhood that came before it, the earlier
channels of its own pixel, and its place. A product of conditional distributions of integers, it is
a code: its bits per dimension need no dequantisation, and no bound.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from .. import data
from ..run.devices import make_mesh
from ..run.messages import progress
from ..run.placement import replicate, share

BATCH = 16  # images that are computed together
OUTSIDE = -2.0  # what a pixel outside of the image is taken for; those inside are in [-1, 1]


class CausalSettings(NamedTuple):
    """What a model is made of."""

    shape: tuple[int, int, int]  # (height, width, channels)
    levels: int
    reach: int = 7  # rows above, and columns to the left and right
    width: int = 192
    layers: int = 3


class CausalModel(nnx.Module):
    """The logits of each value, given those before it."""

    def __init__(self, settings: CausalSettings, *, rngs: nnx.Rngs):
        self.settings = settings
        reach, channels = settings.reach, settings.shape[-1]
        before = reach * (2 * reach + 1) + reach
        inputs = before * channels + 2 * channels + 2
        self.dense_in = nnx.Linear(inputs, settings.width, rngs=rngs)
        self.norms = nnx.List(
            [nnx.LayerNorm(settings.width, rngs=rngs) for _ in range(settings.layers)]
        )
        self.layers = nnx.List(
            [nnx.Linear(settings.width, settings.width, rngs=rngs) for _ in range(settings.layers)]
        )
        self.dense_out = nnx.Linear(settings.width, settings.levels, rngs=rngs)

    def __call__(self, levels: Array) -> Array:
        """Return logits (batch, height, width, channels, levels) of images of whole numbers."""
        x = 2 * levels.astype(jnp.float32) / (self.settings.levels - 1) - 1
        h = self.dense_in(inputs_of(x, self.settings.reach))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = h + layer(nnx.silu(norm(h)))
        return self.dense_out(nnx.silu(h))


def inputs_of(x: Array, reach: int) -> Array:
    """Return what each value is predicted from, (batch, height, width, channels, inputs).

    `x` are images (batch, height, width, channels) in [-1, 1].
    """
    batch, height, width, channels = x.shape
    borders = ((0, 0), (reach, 0), (reach, reach), (0, 0))
    padded = jnp.pad(x, borders, constant_values=OUTSIDE)
    above = [(row, column) for row in range(reach) for column in range(2 * reach + 1)]
    left = [(reach, column) for column in range(reach)]
    shifted = [
        padded[:, row : row + height, column : column + width] for row, column in above + left
    ]
    neighbours = jnp.concatenate(shifted, axis=-1)
    neighbours = jnp.broadcast_to(
        neighbours[:, :, :, None], (batch, height, width, channels, neighbours.shape[-1])
    )
    earlier = jnp.tril(jnp.ones((channels, channels)), -1)  # the channels before each channel
    own = x[:, :, :, None] * earlier[None, None, None]
    place = jnp.stack(
        jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij"), -1
    )
    place = jnp.broadcast_to(place[None, :, :, None], (batch, height, width, channels, 2))
    which = jnp.broadcast_to(jnp.eye(channels), (batch, height, width, channels, channels))
    return jnp.concatenate([neighbours, own, which, place], axis=-1)


def bits_per_dim(model: CausalModel, levels: Array) -> Array:
    """Return the bits per dimension (batch,) of images of whole numbers."""
    nats = optax.softmax_cross_entropy_with_integer_labels(model(levels), levels)
    return nats.mean((1, 2, 3)) / jnp.log(2.0)


def train_causal(dataset: data.DataSet, split: str, steps: int) -> CausalModel:
    """Return a model of the grey levels of a split, trained by Adam with a decaying rate."""
    graph, weights = nnx.split(CausalModel(settings_of(dataset), rngs=nnx.Rngs(0)))
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, max(1, steps // 50), steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    update = update_of(graph, optimizer)
    mesh = make_mesh(BATCH)
    weights = replicate(mesh, weights)
    state = replicate(mesh, optimizer.init(weights))
    rng = np.random.default_rng(0)
    source = dataset.source(split)
    with progress(steps, "autoregressive") as bar:
        for _ in range(steps):
            rows = rng.integers(0, len(source), BATCH)
            images = np.stack([source[int(row)]["x"] for row in rows]).astype(np.int32)
            weights, state, loss = update(weights, state, share(mesh, images))
            bar.set_postfix(bits=f"{float(loss):.3f}", refresh=False)
            bar.update()
    return nnx.merge(graph, weights)


def settings_of(dataset: data.DataSet) -> CausalSettings:
    """Return what a model of a data set is made of.

    Raises:
        ValueError: the data are no images of grey levels.
    """
    if dataset.levels is None or len(dataset.shape) != 3:
        raise ValueError(
            f"need images of grey levels, got {dataset.levels} levels and shape {dataset.shape}"
        )
    height, width, channels = dataset.shape
    return CausalSettings(shape=(height, width, channels), levels=dataset.levels)


def update_of(graph: Any, optimizer: optax.GradientTransformation) -> Callable:
    """Return the compiled step (weights, state, levels) -> (weights, state, loss)."""

    @jax.jit(donate_argnums=(0, 1))
    def update(weights, state, levels):
        def loss_fn(weights):
            return bits_per_dim(nnx.merge(graph, weights), levels).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(weights)
        change, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state, loss

    return update


def measure_causal(model: CausalModel, dataset: data.DataSet, split: str) -> np.ndarray:
    """Return the bits per dimension of each image of a split, (n,)."""
    graph, weights = nnx.split(model)
    measure = jax.jit(lambda weights, levels: bits_per_dim(nnx.merge(graph, weights), levels))
    bits = []
    for block in data.blocks(dataset, split):
        for first in range(0, len(block.x), BATCH):
            images = block.x[first : first + BATCH].astype(np.int32)
            filled = np.zeros((BATCH, *images.shape[1:]), np.int32)
            filled[: len(images)] = images
            bits.append(np.asarray(measure(weights, filled))[: len(images)])
    return np.concatenate(bits)
