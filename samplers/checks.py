"""Checks of what a sampler or a walk is given, made where it comes in.

One error names the value, what was expected and the remedy. Only what is concrete can be judged by
its value; of traced values the shapes are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, dtypes
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from sde_lib import SDE


class Batch(NamedTuple):
    """The samples that a walk carries."""

    x: Array  # (batch, ...) in the type that the walk computes in
    index: Array  # (batch,) the number of each sample in its run
    dtype: DTypeLike  # of the result


def check_batch(x: ArrayLike, cond: Any = None, index: ArrayLike | None = None) -> Batch:
    """Return the state in the type to compute in, and the numbers of the samples.

    A walk needs the 24 bits of float32 for its times and coefficients, so narrower states are
    widened, whole numbers become floating, and the result has the type of `x` if that is floating.

    Raises:
        ValueError: no batch of real finite numbers, or conditions or an index that do not fit it.
    """
    values, dtype = widened(x)
    if not values.ndim or not values.size:
        raise ValueError(
            "a state has shape (batch, ...) and at least one sample, "
            f"got {values.shape}; a single sample is x[None]"
        )
    check_finite(values)
    check_cond(cond, len(values))
    return Batch(x=values, index=check_index(index, len(values)), dtype=dtype)


def widened(x: ArrayLike) -> tuple[Array, DTypeLike]:
    """Return `x` in at least float32, and the type of a result: that of `x` if it is floating.

    Raises:
        ValueError: the numbers are complex.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            f"a state is real, got {x.dtype}; "
            "stack real and imaginary parts on an axis of their own"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        wide = jnp.result_type(float)
        return x.astype(wide), wide
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)), x.dtype


def check_finite(x: Array) -> None:
    """Raise a ValueError if the state is known to hold a value that is not finite."""
    if isinstance(x, Tracer) or not x.is_fully_addressable:
        return
    with jax.ensure_compile_time_eval():  # a concrete state in a function that is being traced
        bad = int(jnp.sum(~jnp.all(jnp.isfinite(x.reshape(len(x), -1)), axis=1)))
    if not bad:
        return
    raise ValueError(
        f"{bad} of the {len(x)} samples of the state hold NaN or infinity; look at what made them, "
        "or draw a start with draw_prior"
    )


def check_cond(cond: Any, batch: int) -> None:
    """Raise a ValueError unless every leaf of the conditions has `batch` as its leading axis."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        shape = np.shape(leaf)
        if shape[:1] != (batch,):
            raise ValueError(
                f"a condition has one entry for each of the {batch} samples, "
                f"but cond{jax.tree_util.keystr(path)} has shape {shape}; "
                "repeat what all share, as in jnp.full(len(x), value)"
            )


def check_index(index: ArrayLike | None, batch: int) -> Array:
    """Return the numbers of the samples, 0, 1, ... by default."""
    if index is None:
        return jnp.arange(batch)
    index = jnp.asarray(index)
    if index.shape != (batch,):
        raise ValueError(
            f"index numbers each of the {batch} samples, "
            f"so it has shape {(batch,)}, got {index.shape}"
        )
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"index holds the whole numbers of samples, got {index.dtype}")
    return index


def check_key(key: Any) -> None:
    """Raise a ValueError unless `key` is one typed key."""
    dtype = getattr(key, "dtype", type(key).__name__)
    shape = np.shape(key)
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, dtypes.prng_key)) or shape != ():
        raise ValueError(
            "the key of a run is one typed key such as jax.random.key(0), "
            f"got {dtype} of shape {shape}; "
            "wrap an old one: jax.random.wrap_key_data(key), and map over several: jax.vmap"
        )


def check_problem(denoise: Any, sde: Any) -> None:
    """Raise a ValueError unless the problem is a denoise function and a process."""
    if isinstance(denoise, SDE | type) or not callable(denoise):
        raise ValueError(
            "denoise is a callable (x, t, cond) -> Estimate such as a Denoiser, "
            f"got {_short(denoise)}"
        )
    if not isinstance(sde, SDE):
        raise ValueError(f"sde is a process such as VP(), got {_short(sde)}")


def check_span(sde: SDE, start: Any, end: Any, falling: bool = True) -> None:
    """Raise a ValueError unless `start` and `end` are times of the process.

    With `falling` the end has to be the earlier one. What is traced passes.
    """
    check_number("need start to be a time", lambda t: True, start=start)
    check_number("need end to be a time", lambda t: True, end=end)
    if any(isinstance(value, Tracer) for value in (sde.t_min, start, end)):
        return
    low = float(sde.t_min) * (1 - 1e-6)  # a time may have been rounded to float32
    if not (low <= start <= 1 and low <= end <= 1 and (end < start or not falling)):
        times = f"{start} and {end}" if falling else f"start = {start} and end = {end}"
        what = "runs from start down to end, both" if falling else "runs"
        raise ValueError(f"the walk {what} between t_min = {sde.t_min} and 1, got {times}")


def check_number(expected: str, holds: Callable, /, **values: Any) -> None:
    """Raise a ValueError unless `holds` is true of each of the values, numbers or arrays of them.

    What is traced passes.

    Args:
        expected: the start of the message, such as "need eta >= 0".
        holds: array -> Booleans.
        values: the values by their names.
    """
    for name, value in values.items():
        if isinstance(value, Tracer):
            continue
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{expected}, got {name} = {_short(value)}") from None
        if np.any(np.isnan(array)) or not np.all(holds(array)):
            raise ValueError(f"{expected}, got {value}")


def check_eta(**values: Any) -> None:
    """Raise a ValueError unless noise levels of a reverse process are finite and at least 0."""
    (name,) = values
    check_number(f"need {name} >= 0", lambda v: (v >= 0) & np.isfinite(v), **values)


def check_tolerance(rtol: Any, atol: Any, max_steps: Any) -> None:
    """Raise a ValueError unless an adaptive walk can keep to these tolerances."""
    check_number("need rtol >= 0", lambda v: (v >= 0) & np.isfinite(v), rtol=rtol)
    check_number("need atol >= 0", lambda v: (v >= 0) & np.isfinite(v), atol=atol)
    if not any(isinstance(v, Tracer) for v in (rtol, atol)) and np.any(
        np.asarray(rtol) + np.asarray(atol) == 0
    ):
        raise ValueError(f"need rtol or atol above 0, got {rtol} and {atol}")
    check_count(max_steps=max_steps)


def check_count(least: int = 1, /, **values: Any) -> None:
    """Raise a ValueError unless the values are whole numbers of at least `least`.

    They shape the program, so that none may be traced.
    """
    for name, value in values.items():
        if isinstance(value, Tracer):
            raise ValueError(
                f"{name} shapes the program, so it cannot be traced; pass a Python number"
            )
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(f"need {name} to be a whole number of at least {least}, got {value!r}")


def check_one_of(allowed: tuple[int, ...], /, **values: Any) -> None:
    """Raise a ValueError unless each of the values is one of the whole numbers `allowed`."""
    for name, value in values.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ValueError(f"need {name} to be one of {listed}, got {value!r}")


def known_zero(value: Any) -> bool:
    """Tell whether a setting is known to be 0; of a traced one that is never known."""
    return not isinstance(value, Tracer) and not np.any(np.asarray(value))


def _short(value: Any) -> str:
    """Return the representation of a value, cut off after 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " ..."
