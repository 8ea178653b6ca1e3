"""A denoise function within one step of a walk, that hands its memory from call to call."""

from typing import Any

from jax import Array
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike

from sde_lib import Denoise, Estimate, recall


class Recalling:
    """A denoise function for one step, which keeps what it remembers after each call.

    A step calls it once or several times, one after the other, and each call is given the memory of
    the one before. Calls inside of a loop or a transformation of the step, as of a corrector with
    several Langevin steps and of a sampler that takes a gradient, cannot hand anything out of it:
    they are first calls, and leave the memory as it is.

    Attributes:
        memory: of the last call, or before the first one.
    """

    def __init__(self, denoise: Denoise, memory: Any):
        self.denoise = denoise
        self.memory = memory
        self.trace = _current_trace()

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the estimate at `x` (batch, ...) and time `t`, of shape () or (batch,)."""
        if _current_trace() != self.trace:
            return self.denoise(x, t, cond)
        estimate, self.memory = recall(self.denoise, x, t, cond, self.memory)
        return estimate


def _current_trace() -> Any:
    """Return what tells the inside of a loop or a transformation from its outside."""
    return get_opaque_trace_state(convention="samplers")
