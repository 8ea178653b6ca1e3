"""Static thresholding of the expected clean data (Saharia et al. 2022, arXiv:2205.11487, section 2.3).

It keeps large guidance scales from driving the data out of their range. The noise estimate changes
with the clean data, so that the two still add up to the state.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state
from ..base import SDE, check_process
from ..estimate import Estimate
from ..evaluations import evaluate
from ..memory import recall
from .base import Guidance, check_bound, marginal_at


class StaticThreshold(Guidance):
    """The estimate whose clean data are clipped to [-bound, bound].

    Attributes:
        denoise: the denoise function, guided or not; it gets the conditions.
        sde: its process.
        bound: the largest value of clean data.
    """

    sde: SDE
    bound: float = 1.0

    def __check_init__(self):
        check_process("StaticThreshold", self.sde)
        check_bound(self.bound)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the clipped estimate and the memory; see `Remembering.recall`."""
        x = as_state(x)
        estimate, memory = evaluate(recall, self.denoise, x, t, cond, memory)
        clipped = jnp.clip(estimate.x0, -self.bound, self.bound)
        return estimate.moved(*marginal_at(self.sde, t, x), clipped - estimate.x0), memory
