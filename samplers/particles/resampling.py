r"""Effective sample size and systematic resampling of weighted particles.

With weights w of n particles the effective size is :math:`(\sum w)^2 / \sum w^2`, from 1 to n.
Systematic resampling takes particle i :math:`\lfloor n W_i \rfloor` or :math:`\lceil n W_i \rceil`
times for its share :math:`W_i = w_i / \sum w`, with one random number for all (Douc and Cappe 2005,
arXiv:cs/0507025).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Key


class Resampled(NamedTuple):
    """What `resample` returns."""

    particles: Any  # a pytree of arrays (n, ...)
    log_weights: Float[Array, " n"]  # 0 where the particles were resampled
    log_mean: Float[Array, ""]  # log of the mean weight that left log_weights, else 0
    ess: Float[Array, ""]  # effective sample size before


def effective_sample_size(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Return how many equal weights `log_weights` (n,) are worth, from 1 to n."""
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    total = jnp.sum(weights)
    return total * (total / jnp.sum(weights**2))  # n to the bit where all are equal


def log_mean_weight(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Return the log of the mean weight; it is 0 to the bit where all log-weights are 0."""
    largest = jnp.max(log_weights)
    return largest + jnp.log(jnp.mean(jnp.exp(log_weights - largest)))


def systematic(key: Key[Array, ""], log_weights: Float[Array, " n"]) -> Int[Array, " n"]:
    """Draw the ancestors (n,) of n new particles, in growing order.

    A particle without weight has no descendants.

    Args:
        key: draws one number for all.
        log_weights: logs of the weights (n,), in any units.
    """
    n = len(log_weights)
    shares = jnp.cumsum(jnp.exp(log_weights - jnp.max(log_weights)))
    shares = shares / shares[-1]
    points = (jnp.arange(n) + jax.random.uniform(key, (), shares.dtype)) / n
    ancestors = jnp.searchsorted(shares, points, side="right")
    # A point may be rounded to 1, beyond the last particle that has any weight.
    return jnp.minimum(ancestors, jnp.searchsorted(shares, shares[-1], side="left"))


def resample(
    key: Key[Array, ""], log_weights: Float[Array, " n"], particles: Any, threshold: ArrayLike = 0.5
) -> Resampled:
    """Resample the particles if their effective size is below `threshold` times their number.

    Resampled or not, ``log_mean + log_mean_weight(log_weights)`` is the log of the mean weight.

    Args:
        key: draws the ancestors.
        log_weights: logs of the weights (n,).
        particles: a pytree of arrays (n, ...).
        threshold: from 0, never, to 1, whenever weights differ.
    """
    n = len(log_weights)
    ess = effective_sample_size(log_weights)
    poor = ess < threshold * n
    ancestors = jnp.where(poor, systematic(key, log_weights), jnp.arange(n))
    return Resampled(
        particles=jax.tree.map(lambda a: a[ancestors], particles),
        log_weights=jnp.where(poor, 0.0, log_weights),
        log_mean=jnp.where(poor, log_mean_weight(log_weights), 0.0),
        ess=ess,
    )
