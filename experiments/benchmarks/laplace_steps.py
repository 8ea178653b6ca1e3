r"""Sums over a Laplace kernel between two uniform sets of nodes, in O(n).

With nodes :math:`s'_j` of spacing h, and others :math:`s_k = s'_0 + \Delta + h k` of the same spacing,

.. math:: \sum_j e^{-|s_k - s'_j| / b} m_j = e^{-(s_k - s'_i) / b} F_i + e^{-(s'_{i+1} - s_k) / b} G_{i+1},
    \qquad F_i = \sum_{j \le i} e^{-(s'_i - s'_j) / b} m_j, \quad
    G_i = \sum_{j \ge i} e^{-(s'_j - s'_i) / b} m_j,

where :math:`s'_i` is the last node at or below :math:`s_k`. All terms are positive: nothing cancels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib.arrays import matmul

LOWEST = -40.0  # log of what a step has at least of the nearest one: products stay in float32


class SameNodes(NamedTuple):
    """The kernel from n nodes to themselves, for as many samples as share them.

    One product of all messages with a matrix is faster than sums along each.
    """

    kernel: Array  # (n, n)

    def take(self, message: Array) -> Array:
        """Return the sums at the nodes (n,) of a message at the nodes (n,)."""
        return matmul(message, self.kernel)


class Step(NamedTuple):
    """The kernel from n nodes to n others, as the trapezoidal rule has to weigh it."""

    shift: Array  # () of the last node at or below the first of the others, from -n to n
    from_below: Array  # (n,), the weight of F at each of the others
    from_above: Array  # (n,), of G
    kink_below: Array  # (n,), what the kink takes off the node below
    kink_above: Array  # (n,), off the node above
    growth: Array  # (n,), e^(s' / b) at the nodes, but for a factor
    least: Array  # (), the least weight of a node

    def take(self, message: Array) -> Array:
        """Return the sums at the other nodes (n,) of a message at the nodes (n,)."""
        n = len(message)
        up = running_sums(message * self.growth) / self.growth
        down = running_sums((message / self.growth)[::-1])[::-1] * self.growth
        nothing = jnp.zeros_like(message)
        seen = jnp.concatenate([nothing, message, nothing])
        up = jnp.concatenate([nothing, up, jnp.broadcast_to(up[-1], (n,))])
        down = jnp.concatenate([jnp.broadcast_to(down[0], (n,)), down, nothing])

        def shifted(values: Array, first: Array) -> Array:
            """Return n of 3 n values from node `first` on."""
            return jax.lax.dynamic_slice_in_dim(values, n + first, n, axis=1)

        up, at_below = shifted(jnp.stack([up, seen]), self.shift)
        down, at_above = shifted(jnp.stack([down, seen]), self.shift + 1)
        smooth = self.from_below * up + self.from_above * down
        kink = self.kink_below * at_below + self.kink_above * at_above
        return smooth - kink + self.least * jnp.sum(message)


def step_between(scale: Array, spacing: Array, offset: Array, nearest: Array, n: int) -> Step:
    """Return the step between two sets of n nodes.

    Args:
        scale: b of the kernel.
        spacing: h of the nodes.
        offset: of the others from the nodes, Delta.
        nearest: the least distance of two nodes, which is taken out of all.
        n: number of nodes in a set.
    """
    places = jnp.arange(n)
    cells = offset / spacing
    whole = jnp.floor(cells)
    part = cells - whole
    shift = jnp.clip(whole, -n - 1, n).astype(jnp.int32)
    below = shift + places
    above = below + 1
    to_below = offset + spacing * (places - jnp.clip(below, 0, n - 1))
    to_above = spacing * (jnp.clip(above, 0, n - 1) - places) - offset
    weight = spacing / (2 * scale)
    kink = spacing / scale * (part**2 - part + 1 / 6) * jnp.exp(nearest / scale)

    def weights(distance: Array) -> Array:
        return weight * jnp.exp((nearest - distance) / scale)

    def inside(index: Array) -> Array:
        return (index >= 0) & (index < n)

    return Step(
        shift=shift,
        from_below=jnp.where(below >= 0, weights(to_below), 0.0),
        from_above=jnp.where(above < n, weights(to_above), 0.0),
        kink_below=jnp.where(inside(below), weight * kink * (1 - part), 0.0),
        kink_above=jnp.where(inside(above), weight * kink * part, 0.0),
        growth=jnp.exp((spacing / scale) * (places - (n - 1) / 2)),
        least=weight * jnp.exp(LOWEST),
    )


def running_sums(values: Array) -> Array:
    """Return the sums (n,) of the values (n,) up to each.

    For the few nodes of many samples a product with a triangular matrix is the fastest on CPU.
    """
    upper = np.triu(np.ones((len(values), len(values))))
    return matmul(values, jnp.asarray(upper, values.dtype))
