r"""The embedding of a context: a vector, or a set of vectors in no order.

.. math:: e = W_1 \Big[ \frac{1}{n} \sum_{i=1}^n a(W_0 y_i),\ \log n \Big]

is the same for every order of the members :math:`y_i` (Zaheer et al. 2017, arXiv:1703.06114). The
mean forgets how many they are, which a posterior depends on, so :math:`\log n` stands beside it; for
a vector, a set of one, it is 0. Without members the embedding is a learned vector.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Members(NamedTuple):
    """What an embedding knows of the members of a set."""

    mean: Array  # (batch, features) of their features; 0 without members
    log_number: Array  # (batch, 1); 0 without members
    present: Array  # (batch, 1), whether there is any


def members_of(context: Array, features_of: Callable[[Array], Array]) -> Members:
    """Return the mean of the features of the members, and the log of their number.

    A member that is NaN in part gives NaN.

    Args:
        context: (batch, features) or (batch, members, features), in which a member of NaN is
            absent.
        features_of: maps members (batch, members, features) to their features, each by itself. In
            place of an absent one it gets zeros.
    """
    members = context if context.ndim == 3 else context[:, None]
    present = ~jnp.isnan(members).all(-1, keepdims=True)
    number = present.sum(1)
    features = features_of(jnp.where(present, members, 0.0))
    divisor = jnp.maximum(number, 1).astype(features.dtype)
    mean = jnp.where(present, features, 0.0).sum(1) / divisor
    return Members(mean=mean, log_number=jnp.log(divisor), present=number > 0)


class ContextEmbedding(nnx.Module):
    """Map a context to a vector.

    Args:
        features: of a member.
        out_features: of the result, and of the layer inside.
        kernel_init: initialiser of the two linear maps.
        activation: a, between the two linear maps.
        rngs: the random keys of the parameters.
    """

    def __init__(
        self,
        features: int,
        out_features: int,
        *,
        kernel_init: Callable,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ):
        linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
        self.activation = activation
        self.dense0 = linear(features, out_features)
        self.dense1 = linear(out_features + 1, out_features)
        self.no_context = nnx.Param(jnp.zeros(out_features))

    def __call__(self, context: Array | None, batch: int) -> Array:
        """Return the embedding (batch, out_features).

        A member that is NaN in part gives NaN.

        Args:
            context: (batch, features) or (batch, members, features), in which a member of NaN is
                absent; None: no context for any of the batch.
            batch: the number of samples.
        """
        no_context = jnp.broadcast_to(self.no_context[...][None], (batch, self.dense1.out_features))
        if context is None:
            return no_context
        members = members_of(context, self._inner)
        outer = self.dense1(jnp.concatenate([members.mean, members.log_number], axis=-1))
        return jnp.where(members.present, outer, no_context)

    def _inner(self, members: Array) -> Array:
        """Return the features of members, each by itself."""
        return self.activation(self.dense0(members))
