r"""The embedding of a context by operations that keep magnitudes; see `models.context`.

.. math::
    e = \operatorname{unit} \Big( W_1 \Big[
    \frac{1}{n} \sum_{i=1}^n a(W_0 [y_i, 1]),\ \log n,\ 1
    \Big] \Big)

in which ones stand for biases. No context is zeros, as "no label" is in this network.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from .context import members_of
from .mp_layers import MPConv, mp_silu, unit


class MPContextEmbedding(nnx.Module):
    """Map a context to a vector of unit magnitude.

    Args:
        features: of a member.
        out_features: of the result, and of the layer inside.
        rngs: the random keys of the parameters.
    """

    def __init__(self, features: int, out_features: int, *, rngs: nnx.Rngs):
        self.dense0 = MPConv(features + 1, out_features, 0, rngs=rngs)
        self.dense1 = MPConv(out_features + 2, out_features, 0, rngs=rngs)
        self.out_features = out_features

    def __call__(self, context: Array | None, batch: int) -> Array:
        """Return the embedding (batch, out_features) of what `ContextEmbedding` takes.

        It is zeros where there is no context.
        """
        if context is None:
            return jnp.zeros((batch, self.out_features))
        members = members_of(context, self._inner)
        one = jnp.ones_like(members.log_number)
        outer = self.dense1(jnp.concatenate([members.mean, members.log_number, one], axis=-1))
        return jnp.where(members.present, unit(outer, -1), 0.0)

    def _inner(self, members: Array) -> Array:
        """Return the features of members, each by itself."""
        ones = jnp.ones_like(members[..., :1])
        return mp_silu(self.dense0(jnp.concatenate([members, ones], axis=-1)))
