"""A trial of a denoise function against the contract that is written down at `Denoise`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Key

from .arrays import expand
from .base import SDE, check_process
from .estimate import Estimate
from .protocols import Denoise

TOLERANCE = 1e-3  # relative; above the rounding of float32 in a network, below any real dependence


class Call(NamedTuple):
    """The arguments of a denoise function."""

    x: Array  # (batch, ...)
    t: Array  # (batch,)
    cond: Any


def check_denoise(
    denoise: Denoise,
    sde: SDE,
    shape: tuple[int, ...],
    cond: Any = None,
    *,
    key: Key[Array, ""] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise a ValueError unless a denoise function keeps to the contract of `Denoise`.

    It is called a few times on random states, each sample at a time of its own, and compiled twice.
    Try it on a new denoiser, guidance or wrapper before a long walk::

        check_denoise(denoise, sde, (4, 32, 32, 3), cond=jnp.arange(4))

    Args:
        denoise: the function.
        sde: the process whose states it denoises.
        shape: of the states, (batch, ...) with a batch of at least 2.
        cond: conditions for this batch, where the function takes any.
        key: draws the states; by default jax.random.key(0).
        tolerance: the largest difference that passes as rounding, relative to the largest value.

    Raises:
        ValueError: the message names the rule, the measured difference and the remedy.
    """
    check_process("check_denoise", sde)
    _check_batch(shape, cond)
    call = _random_call(jax.random.key(0) if key is None else key, sde, shape, cond)
    whole = denoise(*call)
    _check_estimate(whole, call, sde, tolerance)
    _check_pure(denoise, whole, call, tolerance)
    _check_times(denoise, call, tolerance)
    _check_alone(denoise, whole, call, tolerance)


def _check_batch(shape: tuple[int, ...], cond: Any) -> None:
    """Raise a ValueError unless the batch has two samples or more, and conditions for each."""
    if not isinstance(shape, tuple | list) or not shape or shape[0] < 2:
        raise ValueError(
            "need a shape (batch, ...) of at least 2 samples, such as (4, 32, 32, 3), "
            f"got {shape!r}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if np.shape(leaf)[:1] != (shape[0],):
            raise ValueError(
                f"conditions have the batch of {shape[0]} as their leading axis, but "
                f"cond{jax.tree_util.keystr(path)} has shape {np.shape(leaf)}; "
                "repeat what all samples share"
            )


def _random_call(key: Key[Array, ""], sde: SDE, shape: tuple[int, ...], cond: Any) -> Call:
    """Return states of the size that the process has for data of unit size, and their times."""
    t = jnp.linspace(0.2, 0.8, shape[0])
    z = jax.random.normal(key, tuple(shape))
    alpha, sigma = sde.marginal(expand(t, z))
    return Call(x=jnp.hypot(alpha, sigma) * z, t=t, cond=cond)


def _check_estimate(estimate: Any, call: Call, sde: SDE, tolerance: float) -> None:
    """Raise a ValueError unless a result is a finite Estimate that adds up to the state."""
    if not isinstance(estimate, Estimate):
        raise ValueError(
            f"denoise(x, t, cond) returns an Estimate(x0, noise), got a {type(estimate).__name__}; "
            "Estimate.from_x0 and Estimate.from_noise make one of either"
        )
    for name, part in estimate._asdict().items():
        if jnp.shape(part) != call.x.shape:
            raise ValueError(
                f"{name} of the estimate has shape {jnp.shape(part)} for a state of shape "
                f"{call.x.shape}; return one like the state"
            )
        if not jnp.all(jnp.isfinite(part)):
            raise ValueError(f"{name} of the estimate is not finite at times from 0.2 to 0.8")
    alpha, sigma = sde.marginal(expand(call.t, call.x))
    state = alpha * estimate.x0 + sigma * estimate.noise
    size = jnp.abs(alpha * estimate.x0) + jnp.abs(sigma * estimate.noise) + jnp.abs(call.x)
    error = float(jnp.max(jnp.abs(state - call.x)) / jnp.max(size))
    if error > tolerance:
        raise ValueError(
            f"alpha x0 + sigma noise of the estimate differs from x by {error:.1e} of its size; "
            "make both parts of one by Estimate.from_x0 or Estimate.from_noise"
        )


def _check_times(denoise: Denoise, call: Call, tolerance: float) -> None:
    """Raise a ValueError unless one time is taken for that of every sample."""
    one = denoise(call.x, call.t[0], call.cond)
    each = denoise(call.x, jnp.full_like(call.t, call.t[0]), call.cond)
    if (error := _difference(one, each)) > tolerance:
        raise ValueError(
            f"a time of shape () gives another estimate than the same time for each sample, by "
            f"{error:.1e} of its size; broadcast the time with sde_lib.expand"
        )


def _check_pure(denoise: Denoise, whole: Estimate, call: Call, tolerance: float) -> None:
    """Raise a ValueError unless two calls agree, and a compiled one agrees with them."""
    if (error := _difference(denoise(*call), whole)) > tolerance:
        raise ValueError(
            f"denoise is not pure: a second call with the same arguments differs by {error:.1e} of "
            "its size; randomness and state have to come in with cond"
        )

    def fresh(call):  # a function of its own, which is traced although `denoise` was before
        return denoise(*call)

    compiled = _compiled(fresh, call, "when it is compiled")
    if (error := _difference(compiled, whole)) > tolerance:
        raise ValueError(
            f"denoise is not pure: compiled it differs by {error:.1e} of its size; "
            "write it in jax.numpy, without state and without branches on values"
        )


def _check_alone(denoise: Denoise, whole: Estimate, call: Call, tolerance: float) -> None:
    """Raise a ValueError unless each sample alone, in a batch of one, gives the same estimate."""

    def alone(call):
        x, t, cond = jax.tree.map(lambda a: a[None], call)
        return jax.tree.map(lambda a: a[0], denoise(x, t[0], cond))

    single = _compiled(jax.vmap(alone), call, "on a batch of one, as jax.vmap over samples does")
    if (error := _difference(single, whole)) > tolerance:
        raise ValueError(
            f"a sample depends on its batch: alone its estimate differs by {error:.1e} of its "
            "size; use no statistics of the batch, and let conditions travel in cond"
        )


def _compiled(function: Callable[[Call], Estimate], call: Call, when: str) -> Estimate:
    """Return the result of a compiled function, or raise a ValueError if it cannot be traced."""
    try:
        return eqx.filter_jit(function)(call)
    except Exception as error:  # whatever the function comes up with
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise ValueError(
            f"denoise cannot be traced {when} ({type(error).__name__}: {reason}); "
            "write it in jax.numpy for any batch size, without branches on values"
        ) from error


def _difference(estimate: Estimate, reference: Estimate) -> float:
    """Return the largest difference of two estimates, relative to the largest values."""
    return max(
        float(jnp.max(jnp.abs(part - other)) / jnp.maximum(jnp.max(jnp.abs(other)), 1e-6))
        for part, other in zip(estimate, reference, strict=True)
    )
