r"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598).

.. math:: D = D_u + w (D_c - D_u)

with one network that knows the condition or does without. The paper's scale is :math:`w - 1`. The
guided field is not the score of any noised law: for a sample of :math:`q_u^{1-w} q_c^w` see
`samplers.particles`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state
from ..base import SDE
from ..estimate import Estimate
from ..evaluations import evaluate
from ..memory import init_memory, recall
from ..protocols import Denoise
from .base import Guidance, Interval, Pair, between, check_interval, check_scale, scale_at, split


class ClassifierFree(Guidance):
    """Two estimates of one denoise function, with and without the condition, extrapolated.

    It costs two evaluations a call, also outside of the interval and at scale 1, as a compiled
    program evaluates both.

    Attributes:
        denoise: takes conditions, or `null` for none.
        scale: 1 is the conditional estimate, 0 the unconditional one; any number may be traced.
            `Guided` as `cond` brings one for each sample.
        null: what `denoise` takes for "no condition". None by default; else the entry of one
            sample, a pytree without batch axis that is repeated, or a function from the conditions
            to those of "no condition".
        interval: (low, high) of the noise level sigma / alpha, outside of which the scale is 1
            (arXiv:2404.07724).
        sde: the process of `denoise`, which only an interval needs.
    """

    scale: float
    null: Any = None
    interval: Interval = None
    sde: SDE | None = None

    def __check_init__(self):
        check_scale(self.scale)
        check_interval("ClassifierFree", self.interval, self.sde)

    def init(self, x: Array) -> Pair:
        """Return the memories of both estimates; see `Remembering.init`."""
        return both_memories(self.denoise, x)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the guided estimate and the memory; see `Remembering.recall`.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: the conditions, or `Guided`.
            memory: what the call before has returned.

        Raises:
            ValueError: no condition, or scales that do not fit the batch.
        """
        x = as_state(x)
        cond, scale = split(cond, self.scale, x)
        (weak, strong), memory = both(self.denoise, x, t, cond, self.null, memory)
        return between(weak, strong, scale_at(scale, t, x, self.interval, self.sde)), memory


def both_memories(denoise: Denoise, x: Array) -> Pair:
    """Return the memory of `both` before the first call."""
    memory = init_memory(denoise, x)
    return Pair(weak=memory, strong=memory)


def both(
    denoise: Denoise, x: Array, t: ArrayLike, cond: Any, null: Any, memory: Pair
) -> tuple[Pair, Pair]:
    """Return the unconditional and the conditional estimate, and what each will be given next.

    See `ClassifierFree` for `null`.

    Raises:
        ValueError: there is no condition.
    """
    if cond is None:
        raise ValueError(
            "classifier-free guidance has no condition to guide to, got cond=None; "
            "pass one to the walk, as in cond=labels, or walk with the denoise function itself"
        )
    nothing = unconditional(null, cond, len(x))
    weak, of_weak = evaluate(recall, denoise, x, t, nothing, memory.weak)
    strong, of_strong = evaluate(recall, denoise, x, t, cond, memory.strong)
    return Pair(weak=weak, strong=strong), Pair(weak=of_weak, strong=of_strong)


def unconditional(null: Any, cond: Any, batch: int) -> Any:
    """Return the conditions of a batch that mean "no condition"; see `ClassifierFree.null`."""
    if callable(null):
        return null(cond)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *jnp.shape(leaf))), null)
