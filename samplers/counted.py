"""A denoise function as every walk calls it.

It is checked, computes in the precision of the state, and each of its network evaluations counts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from sde_lib import Denoise, Estimate, Remembering, count_evaluations, evaluate, init_memory, recall


class Counted(Remembering):
    """A denoise function whose every call counts at least one evaluation.

    Its estimate comes in the type of the state. A walk that cannot count while it is traced, such
    as an adaptive one, multiplies its calls by `evaluations`.

    Attributes:
        denoise: the function, see `sde_lib.Denoise`.
    """

    denoise: Denoise

    def init(self, x: Array) -> Any:
        """Return the memory of the function; see `Remembering.init`."""
        return init_memory(self.denoise, x)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the estimate and the memory; see `Remembering.recall`.

        Raises:
            ValueError: what is returned is not an `Estimate` whose parts are shaped like the state.
        """
        estimate, memory = evaluate(recall, self.denoise, x, t, cond, memory)
        if not isinstance(estimate, Estimate):
            raise ValueError(
                "denoise(x, t, cond) returns an Estimate(x0, noise), "
                f"got a {type(estimate).__name__}; "
                "Estimate.from_x0 and Estimate.from_noise make one of either"
            )
        for name, part in zip(estimate._fields, estimate, strict=True):
            if jnp.shape(part) != x.shape:
                raise ValueError(
                    f"denoise returned {name} of shape {jnp.shape(part)} for a state of shape "
                    f"{x.shape}; it returns one like the state"
                )
        return Estimate(*(jnp.asarray(part, x.dtype) for part in estimate)), memory


def evaluations(denoise: Counted, x: Array, cond: Any) -> int:
    """Return how many network evaluations one call for a batch like `x` costs.

    It is found by tracing; nothing is computed.
    """

    def call(x, t, cond):  # a function of its own: a known one would not be traced again
        return denoise(x, t, cond)

    with count_evaluations() as tally:
        jax.eval_shape(call, x, jnp.ones((), x.dtype), cond)
    return tally.total
