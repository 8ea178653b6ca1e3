r"""InstanceNorm++ (Song and Ermon 2019, arXiv:1907.05600, appendix A).

Each channel is normalised over its pixels. This loses its mean :math:`\mu_c`, which is added again,
relative to the means of the other channels,

.. math::
    \gamma_c \Big(
    \frac{x_c - \mu_c}{s_c} + \alpha_c \frac{\mu_c - \bar\mu}{\operatorname{sd}(\mu)}
    \Big) + \beta_c .

sd has n - 1 in its denominator, as in the published PyTorch code (github.com/ermongroup/ncsnv2).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .layers import widened

EPS = 1e-5


class Steering(NamedTuple):
    """What normalisation depends on beside the state."""

    level: Array  # (batch,) of noise
    context: Array | None  # (batch, features) its embedding


class InstanceNormPlus(nnx.Module):
    """InstanceNorm++, computed in float32.

    Args:
        features: number of channels.
        levels: number of noise levels that have a (gamma, alpha, beta) each; 0: one for all.
        context: features of the embedding of a context, which adds to them; 0: none.
        rngs: the random keys of the parameters.
    """

    def __init__(self, features: int, levels: int = 0, context: int = 0, *, rngs: nnx.Rngs):
        self.levels = levels
        number = max(levels, 1)
        near_one = 1 + 0.02 * jax.random.normal(rngs.params(), (number, 2 * features))
        zeros = jnp.zeros((number, features))
        self.rows = nnx.Param(jnp.concatenate([near_one, zeros], axis=1))
        nothing = partial(nnx.Linear, kernel_init=nnx.initializers.zeros, rngs=rngs)
        self.steer = nothing(context, 3 * features) if context else None

    def __call__(self, x: Array, steering: Steering) -> Array:
        """Normalise x (batch, height, width, features) as noise level and context say.

        A level that there is not gives NaN, which is loud where a traced value cannot raise.
        """
        level = steering.level
        index = level if self.levels else jnp.zeros_like(level)
        rows = jnp.take(self.rows[...], index, axis=0, mode="fill")
        if self.steer is not None and steering.context is not None:
            rows = rows + self.steer(steering.context)
        gamma, alpha, beta = jnp.split(rows[:, None, None], 3, axis=-1)
        wide = widened(x)
        mean = wide.mean((1, 2), keepdims=True)
        centred = wide - mean
        normal = centred * jax.lax.rsqrt((centred**2).mean((1, 2), keepdims=True) + EPS)
        deviation = mean - mean.mean(-1, keepdims=True)
        variance = (deviation**2).sum(-1, keepdims=True) / (x.shape[-1] - 1)
        relative = alpha * deviation * jax.lax.rsqrt(variance + EPS)
        return (gamma * (normal + relative) + beta).astype(x.dtype)
