r"""A residual multilayer perceptron for vectors: the network for densities in a few dimensions.

.. math:: h \leftarrow h + W_2\,\mathrm{silu}\big((1 + \gamma) \odot W_1 h + \beta\big),

with :math:`(\gamma, \beta) = W_e\,e(c, \text{condition})`, so that the noise level turns features
on and off (Perez et al. 2018, arXiv:1709.07871) instead of only shifting them. The first :math:`h`
sees each coordinate also through :math:`\sin \omega x, \cos \omega x` (Tancik et al. 2020,
arXiv:2006.10739); without them sharp edges are learned slowly. There is no normalisation: it would
take away the length of the vector.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from .conditions import ConditionSizes, with_last
from .embedding import Conditioning, check_state
from .layers import BRANCH_END, kernel_init
from .settings import check_at_least, check_dropout

# in radians per unit of x: for data of unit variance, details down to an eighth of it
OMEGA = np.array([1, 2, 4, 8], np.float32)


def features_in(dimensions: int) -> int:
    """Return the number of features of `with_waves`."""
    return dimensions * (1 + 2 * len(OMEGA))


def with_waves(x: Array) -> Array:
    """Return vectors (batch, dimensions) beside the sines and cosines of their coordinates."""
    angle = (x[:, :, None] * OMEGA[None, None]).reshape(len(x), -1)
    return jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)], axis=1)


class MLPBlock(nnx.Module):
    """One residual step, modulated by the embedding.

    Args:
        width: features of the state and of the embedding.
        dropout: fraction of the inner features that training drops.
        rngs: the random keys of the parameters.
    """

    def __init__(self, width: int, *, dropout: float, rngs: nnx.Rngs):
        self.dense0 = nnx.Linear(width, width, kernel_init=kernel_init(), rngs=rngs)
        self.cond = nnx.Linear(width, 2 * width, kernel_init=kernel_init(), rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.dense1 = nnx.Linear(width, width, kernel_init=BRANCH_END, rngs=rngs)

    def __call__(self, h: Array, emb: Array, rngs: nnx.Rngs | None) -> Array:
        """Map a state (batch, width) with an embedding (batch, width) to the next state."""
        gamma, beta = jnp.split(self.cond(emb), 2, axis=-1)
        inner = nnx.silu((1 + gamma) * self.dense0(h) + beta)
        return h + self.dense1(self.dropout(inner, rngs=rngs))


class MLP(nnx.Module):
    """Residual MLP for vectors of `shape` (dimensions,).

    With `num_classes` > 0 the network takes labels 0..num_classes, of which the last means "no
    label"; with `context` > 0 vectors of that many features, or sets of them; see
    `models.conditions`.

    Args:
        shape: (dimensions,) of a vector.
        width: features of the state and of the embedding.
        depth: number of blocks.
        dropout: fraction of the inner features of a block that training drops.
        num_classes: number of classes; 0 for a network without labels.
        context: features of a context, a vector or a set of vectors; 0 for a network without.
        self_conditioning: take the last estimate of the clean data as further entries of its input.
        embedding: how the noise input is embedded, a name of `EMBEDDINGS`.
        rngs: the random keys of the parameters.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        width: int = 128,
        depth: int = 4,
        dropout: float = 0.0,
        num_classes: int = 0,
        context: int = 0,
        self_conditioning: bool = False,
        embedding: str = "log_noise",
        rngs: nnx.Rngs,
    ):
        if len(shape) != 1:
            raise ValueError(
                f"MLP needs shape (dimensions,), got {tuple(shape)}; use UNet for images"
            )
        check_at_least(1, width=width, dimensions=shape[0])
        check_at_least(0, depth=depth)
        check_dropout(dropout)
        self.shape = tuple(shape)
        self.num_classes = num_classes
        self.condition_sizes = ConditionSizes(label=num_classes, context=context)
        self.condition_sizes.check()
        self.self_conditioning = self_conditioning
        self.conditioning = Conditioning(
            width,
            width,
            embedding=embedding,
            num_classes=num_classes,
            kernel_init=kernel_init(),
            context=context,
            rngs=rngs,
        )
        size = features_in(shape[0]) + shape[0] * self_conditioning
        self.dense_in = nnx.Linear(size, width, kernel_init=kernel_init(), rngs=rngs)
        self.blocks = nnx.List([MLPBlock(width, dropout=dropout, rngs=rngs) for _ in range(depth)])
        self.dense_out = nnx.Linear(width, shape[0], kernel_init=BRANCH_END, rngs=rngs)

    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: Any = None,
        last: Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Map noisy vectors to an array of their shape.

        Args:
            x: (batch, dimensions).
            c_noise: noise inputs (batch,).
            cond: labels (batch,), contexts (batch, features) or (batch, members, features), a
                dictionary of both, or None; see `models.conditions`.
            last: with self-conditioning, the last estimate of the clean data, like x; None: zeros.
            rngs: with a key of "dropout", for a network in training that has dropout.

        Raises:
            ValueError: an argument has another shape or type, or labels are out of range.
        """
        check_state(x, c_noise, self.shape)
        given = self.condition_sizes.read(cond, x)
        emb = nnx.silu(self.conditioning(c_noise, given.label, given.context))
        h = self.dense_in(with_last(x, with_waves(x), last, self.self_conditioning))
        for block in self.blocks:
            h = block(h, emb, rngs)
        return self.dense_out(nnx.silu(h))
