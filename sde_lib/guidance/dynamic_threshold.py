"""Dynamic thresholding of the expected clean data (Saharia et al. 2022, arXiv:2205.11487, section 2.3).

Clipping alone saturates; here a sample whose values are too large is clipped less and scaled down.
The noise estimate changes with the clean data, so that the two still add up to the state.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state, precision
from ..base import SDE, check_process
from ..checks import check_numbers
from ..estimate import Estimate
from ..evaluations import evaluate
from ..memory import recall
from .base import Guidance, check_bound, marginal_at, over_sample


class DynamicThreshold(Guidance):
    """The estimate whose clean data are clipped at a quantile of each sample, then scaled down.

    Where the quantile of the absolute values is below `bound`, values are clipped at `bound`.

    Attributes:
        denoise: the denoise function, guided or not; it gets the conditions.
        sde: its process.
        quantile: of the absolute values of one sample, from 0 to 1.
        bound: the largest value of clean data.
    """

    sde: SDE
    quantile: float = 0.995
    bound: float = 1.0

    def __check_init__(self):
        check_process("DynamicThreshold", self.sde)
        check_numbers("0 <= quantile <= 1", lambda q: (q >= 0) & (q <= 1), self.quantile)
        check_bound(self.bound)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the thresholded estimate and the memory; see `Remembering.recall`."""
        x = as_state(x)
        estimate, memory = evaluate(recall, self.denoise, x, t, cond, memory)
        x0 = estimate.x0.astype(precision(x))
        size = jnp.quantile(jnp.abs(x0), self.quantile, axis=over_sample(x0), keepdims=True)
        size = jnp.maximum(size, self.bound)
        clipped = jnp.clip(x0, -size, size) * (self.bound / size)
        return estimate.moved(*marginal_at(self.sde, t, x), clipped - x0), memory
