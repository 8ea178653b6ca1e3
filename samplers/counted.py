"""A denoise function as every walk calls it: checked, in the precision of the state, and each of
its network evaluations counted.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from sde_lib import Estimate, count_evaluations, record_evaluations

Denoise = Callable[[Array, ArrayLike, Any], Estimate]


class Counted(eqx.Module):
    """A denoise function whose every call counts at least one evaluation, also when it does not say
    so itself.

    Its estimate comes in the type of the state. A walk that cannot count while it is traced, such
    as an adaptive one, multiplies its calls by `evaluations`.

    Raises:
        ValueError: what is returned is not an `Estimate` whose parts are shaped like the state.
    """

    denoise: Denoise

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        with count_evaluations() as tally:
            estimate = self.denoise(x, t, cond)
        record_evaluations(max(tally.total, 1))
        if not isinstance(estimate, Estimate):
            raise ValueError(
                f"denoise(x, t, cond) returns an Estimate(x0, noise), got a {type(estimate).__name__}; "
                "Estimate.from_x0 and Estimate.from_noise make one of either"
            )
        for name, part in zip(estimate._fields, estimate, strict=True):
            if jnp.shape(part) != x.shape:
                raise ValueError(
                    f"denoise returned {name} of shape {jnp.shape(part)} for a state of shape {x.shape}; it returns one like the state"
                )
        return Estimate(*(jnp.asarray(part, x.dtype) for part in estimate))


def evaluations(denoise: Counted, x: Array, cond: Any) -> int:
    """Return how many network evaluations one call of `denoise` for a batch like `x` costs; nothing
    is computed.
    """

    def call(x, t, cond):  # a function of its own: a known one would not be traced again
        return denoise(x, t, cond)

    with count_evaluations() as tally:
        jax.eval_shape(call, x, jnp.ones((), x.dtype), cond)
    return tally.total
