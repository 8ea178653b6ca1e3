"""Denoise functions that remember their last call: self-conditioning, and guidance with momentum.

A denoise function is pure, so what it remembers goes in and comes out, as of a multistep sampler::

    memory = init_memory(denoise, x)
    estimate, memory = recall(denoise, x, t, cond, memory)

Called as any other, ``denoise(x, t, cond)`` answers as at its first call. A walk over a grid hands
the memory from each call to the next one, and so does `dpm_adaptive`, from one accepted step to the
next. Whatever takes the function for a field of (x, t) alone makes first calls only: likelihoods,
codes, `probability_flow`, `reverse_sde`, `sample_parallel`, particles and posterior denoisers.
"""

import abc
from typing import Any

import equinox as eqx
from jax import Array
from jax.typing import ArrayLike

from .estimate import Estimate
from .protocols import Denoise


class Remembering(eqx.Module):
    """A denoise function that may remember; a new one writes `init` and `recall`."""

    @abc.abstractmethod
    def init(self, x: Array) -> Any:
        """Return the memory before the first call for states like `x` (batch, ...).

        It is a pytree of arrays (batch, ...), () for nothing.
        """

    @abc.abstractmethod
    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the estimate at `x` (batch, ...) and time `t`, () or (batch,), and the memory.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: conditions, as of a call.
            memory: what `init` or the call before has returned.
        """

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the estimate of a first call at `x` (batch, ...) and time `t`, () or (batch,)."""
        return self.recall(x, t, cond, self.init(x))[0]


def init_memory(denoise: Denoise, x: Array) -> Any:
    """Return the memory of a denoise function before its first call; () if it remembers nothing."""
    return denoise.init(x) if isinstance(denoise, Remembering) else ()


def recall(denoise: Denoise, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Any, Any]:
    """Return the estimate of a denoise function, and its memory for the next call.

    What a function of the user's own returns is not looked at; walks do so.

    Args:
        denoise: the function; see `Remembering` for the other arguments.
    """
    if isinstance(denoise, Remembering):
        return denoise.recall(x, t, cond, memory)
    return denoise(x, t, cond), memory
