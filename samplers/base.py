r"""A sampler plans its coefficients once, then steps; `sample` owns the only loop.

A grid :math:`t_0 > t_1 > \dots > t_n` gives n steps from t to s. `plan` is evaluated in float64
before anything is compiled, `step` runs in the precision of the state. A sample belongs to its key
and index, not to its batch: its noise comes from ``fold_in(fold_in(key, index), step)``, so that
image 17 of a run is the same image in any batch and on any number of devices.
"""

import abc
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from sde_lib import SDE, Denoise

from .checks import check_count, check_index, check_key

_START = 0xFFFFFFFF  # the "step" of the prior draw; steps count up from 0


class Sampler(eqx.Module):
    """A way back from noise to data along a decreasing time grid.

    A new one writes `plan` and `step`, and `init` if it remembers anything, and says its `order`.
    Its fields are its hyper-parameters: numbers may be traced, whole numbers and names are static.

    Attributes:
        order: of convergence in the step size: on a smooth problem the error of a walk falls like
            the step size to this power. Of a stochastic sampler it is the weak order, that of
            expectations. It may be a field, a property or a class variable.
        is_corrector: whether a step ends at the time where it starts.
    """

    if TYPE_CHECKING:  # which takes an AbstractVar for an argument of the constructor
        order: ClassVar[int]
    else:
        order: eqx.AbstractVar[int]
    is_corrector: ClassVar[bool] = False

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; by default it does not."""
        return False

    @abc.abstractmethod
    def plan(self, sde: SDE, ts: Array) -> Any:
        """Return the coefficients of every step, before the walk starts.

        It is written in `jnp` and called in float64, or traced where the grid or the process is.

        Args:
            sde: the process.
            ts: the grid (steps + 1,), decreasing.

        Returns:
            A NamedTuple of arrays with leading axis `steps`. Coefficients that are not finite make
            `sample` raise a ValueError.
        """

    def init(self, x: Array) -> Any:
        """Return the memory that a multistep method carries from step to step; nothing by default.

        Args:
            x: the start of the walk (batch, ...).

        Returns:
            A pytree of arrays (batch, ...).
        """
        return ()

    @abc.abstractmethod
    def step(
        self,
        keys: Key[Array, " batch"],
        denoise: Denoise,
        x: Array,
        coefficients: Any,
        memory: Any,
        cond: Any,
    ) -> tuple[Array, Any]:
        """Take one step from t to s.

        Args:
            keys: one key a sample, used by this step alone.
            denoise: the denoiser, called as ``denoise(x, t, cond)``.
            x: the state at t (batch, ...).
            coefficients: those of this step: an entry of the plan along its leading axis, in the
                type of the state.
            memory: what `init` or the step before has returned.
            cond: the conditions of the samples, handed to `denoise`.

        Returns:
            The state at s (batch, ...) and the memory.
        """


def fold(keys: Key[Array, " batch"], data: ArrayLike) -> Key[Array, " batch"]:
    """Fold one number into every key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, " batch"], like: Array) -> Array:
    """Draw standard normal noise shaped like `like` (batch, ...), each sample from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def sample_keys(key: Key[Array, ""], index: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Return the key that belongs to each sample of a run."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def draw_prior(
    key: Key[Array, ""], sde: SDE, shape: tuple[int, ...], index: Int[Array, " batch"] | None = None
) -> Array:
    """Draw the start of a walk from the prior of a process.

    Args:
        key: the key of the run.
        sde: the process.
        shape: (batch, ...) of the start.
        index: the number (batch,) of each sample in its run; default 0, 1, ...

    Returns:
        The start x (batch, ...) at t = 1.

    Raises:
        ValueError: no typed key, no process, or an impossible shape or index.
    """
    check_key(key)
    if not isinstance(sde, SDE):
        raise ValueError(f"sde is a process such as VP(), got {sde!r}")
    if not isinstance(shape, tuple | list) or not shape:
        raise ValueError(f"need a shape (batch, ...) such as (16, 32, 32, 3), got {shape!r}")
    for size in shape:
        check_count(shape=size)
    keys = fold(sample_keys(key, check_index(index, shape[0])), np.uint32(_START))
    return jax.vmap(lambda k: sde.prior(k, tuple(shape[1:])))(keys)
