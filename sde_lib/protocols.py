"""What samplers, likelihoods and fits call: a denoise function."""

from typing import Any, Protocol, runtime_checkable

from jax import Array
from jax.typing import ArrayLike

from .estimate import Estimate


@runtime_checkable
class Denoise(Protocol):
    """A denoise function: ``denoise(x, t, cond)`` says what clean data and what noise are in `x`.

    A `Denoiser` is one, and so is everything that wraps one: guidance, `Retimed`, a function of
    your own. `check_denoise` tries whether a function keeps to the contract:

    1. **Arguments.** `x` is a floating array (batch, ...). The time `t`, from 0 (data) to 1
    (noise), has shape () or (batch,). The conditions `cond` are None or a pytree of arrays whose
    leading axis is the batch. Whatever belongs to a sample, such as its label, measurement, mask or
    guidance scale, travels in `cond` and is not captured from outside. 2. **Result.** An `Estimate`
    whose parts have the shape of `x`, with ``x = alpha x0 + sigma noise`` of the process.
    `Estimate.from_x0` and `Estimate.from_noise` make both parts of one. 3. **Pure.** The result
    depends on the three arguments and nothing else, and nothing outside changes. Two calls with the
    same arguments agree, compiled or not. 4. **Sample by sample.** Entry i of the result depends on
    entry i of `x`, `t` and `cond` only: no statistics of the batch, and no other batch size or
    order changes it beyond rounding. 5. **Traceable on a batch of one.** Walks with adaptive steps,
    fits and parallel walks map the function over single samples with `jax.vmap`, so that the
    arguments are tracers and the batch has size 1: no Python branches on values, no size written
    in.

    Network evaluations are counted by `record_evaluations`, once for each call of a network, as
    `Denoiser` does. A function that records nothing counts as one evaluation.
    """

    def __call__(self, x: Array, t: ArrayLike, cond: Any, /) -> Estimate:
        """Return the clean data and the noise expected in `x` (batch, ...) at time `t`."""
        raise NotImplementedError


def sigma_data_of(denoise: Any) -> Any:
    """Return the standard deviation of the data that a denoise function knows, 1 if none."""
    return getattr(denoise, "sigma_data", 1.0)
