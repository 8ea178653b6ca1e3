"""States and times as arrays: their type, their shape, and the precision they are computed in.

A state is one floating array of shape (batch, ...). Whole numbers and Booleans are taken as numbers
of the default floating type. A time has shape () or (batch,) and lies in [0, 1]. Times,
coefficients and what is computed from them are never narrower than float32, also where the state is
bfloat16 or float16: eight bits cannot tell the steps of a walk apart.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from .checks import known

TIME_SLACK = 1e-6  # a time may have been rounded to float32


def floating(values: ArrayLike) -> Array:
    """Return `values` as a floating array.

    Floating types stay as they are; other real ones become the default type.

    Raises:
        ValueError: the values are complex, or no numbers.
    """
    array = values if isinstance(values, Tracer) else jnp.asarray(_numeric(values))
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array
    if array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer):
        return array.astype(jnp.result_type(float))
    raise ValueError(f"need real numbers, got an array of type {array.dtype}")


def _numeric(values: ArrayLike) -> Any:
    """Return `values` if they make an array of numbers, else raise a ValueError."""
    if isinstance(values, jax.Array):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"need an array of numbers, got {values!r}: {error}") from None
    if array.dtype.kind in "OSUMm":
        raise ValueError(f"need an array of numbers, got {values!r}")
    return values


def precision(state: Array) -> DTypeLike:
    """Return the type in which coefficients for `state` are computed.

    It is that of the state, but never narrower than float32.
    """
    kind = state.dtype
    if not jnp.issubdtype(kind, jnp.floating):
        return jnp.result_type(float)
    return jnp.float32 if jnp.finfo(kind).bits < 32 else kind


def at_least_float32(values: ArrayLike) -> Array:
    """Return `values` as a floating array that is not narrower than float32."""
    array = floating(values)
    return array.astype(precision(array))


def as_state(x: ArrayLike) -> Array:
    """Return `x` as a floating array (batch, ...).

    Raises:
        ValueError: it has no axis, or holds no real numbers.
    """
    x = floating(x)
    if x.ndim == 0:
        raise ValueError(
            "a state has shape (batch, ...), got one number, of shape (); "
            "pass x[None] for a batch of one"
        )
    return x


def check_time(t: ArrayLike) -> ArrayLike:
    """Return the time `t`, with rounding beyond the ends cut off.

    Raises:
        ValueError: its values are known and leave [0, 1] by more than rounding.
    """
    if isinstance(t, Tracer):
        return t
    values = np.asarray(_numeric(t)).astype(np.float64)
    inside = (values >= -TIME_SLACK) & (values <= 1 + TIME_SLACK)
    if not np.all(inside):
        raise ValueError(
            f"need times from 0 (data) to 1 (noise), got {values[~inside].flat[0]:g}; "
            "divide the numbers of steps or levels by the largest one"
        )
    return t if np.all((values >= 0) & (values <= 1)) else np.clip(values, 0.0, 1.0)


def expand(t: ArrayLike, like: Array) -> Array:
    """Append axes to a time so that it broadcasts against a state.

    Args:
        t: a time of shape () or (batch,).
        like: the state (batch, ...).

    Returns:
        The time, () or (batch, 1, ...), in the type of `like`, but at least float32.

    Raises:
        ValueError: `t` has another shape.
    """
    t = jnp.asarray(t, precision(like))
    if t.shape not in ((), like.shape[:1]):
        raise ValueError(
            f"a time has shape () or (batch,) = {like.shape[:1]}, got {t.shape}; "
            "pass one time, or one per sample"
        )
    return t.reshape(t.shape + (1,) * (like.ndim - 1)) if t.ndim else t


def expand_time(t: ArrayLike, like: Array) -> Array:
    """Expand `t` like `expand`, and check its values.

    Raises:
        ValueError: `t` has another shape, or its values are known and leave [0, 1].
    """
    return expand(check_time(t), like)


def in_float64(fn: Callable, *args: Any) -> Any:
    """Evaluate `fn(*args)` in float64, also while something else is being traced.

    If nothing in the function and its arguments is traced, the result is a pytree of float64 NumPy
    arrays. Otherwise the function is called as it is, so that a grid or a schedule that is being
    learned stays traced. Solver coefficients would lose 3 % in float32 at a thousand steps.

    The function is compiled once for each shape, so pass one that lasts: a function of a module or
    a method, not a lambda made for the call.
    """
    if not known(fn, args):
        return fn(*args)
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        np.errstate(all="ignore"),  # infinite log-SNRs are for callers to refuse
    ):
        wide = jax.tree.map(
            lambda a: np.asarray(a, np.float64) if eqx.is_inexact_array_like(a) else a, args
        )
        try:
            values = _compiled(fn, wide)
        except jax.errors.JAXTypeError:  # the function looks at values, or hands them to NumPy
            values = fn(*wide)
        return jax.tree.map(np.asarray, values)


@eqx.filter_jit
def _compiled(fn, args):
    """Call a function as one program, which compiles in a tenth of the time of its operations."""
    return fn(*args)


def matmul(a: ArrayLike, b: ArrayLike) -> Array:
    """Multiply in full precision.

    Accelerators would round the factors to 8 or 11 bits.
    """
    return jnp.matmul(jnp.asarray(a), jnp.asarray(b), precision=jax.lax.Precision.HIGHEST)
