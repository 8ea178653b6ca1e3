"""Gradient descent through a walk, watched on samples that are held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Distance = Callable[[Array, Array], Float[Array, " batch"]]  # (ends, target) -> distance
CHUNKS = 40  # looks at the held-out samples
PATIENCE = 3  # of them without gain: back to the best numbers, at a third of the rate
SLOWEST = 0.01  # of the first rate; below it the descent ends


class Descended(NamedTuple):
    """What a descent returns."""

    numbers: Any  # those that were best on the held-out half
    history: np.ndarray  # median distances of the held-out half, at first and after each chunk


def descend(
    walk: Callable[[Any, Array, Any], Array],
    starts: list[Any],
    x: Array,
    target: Array,
    cond: Any,
    distance: Distance,
    updates: int,
    rate: float,
    progress: Callable[[int, int], None] | None,
) -> Descended:
    """Minimise the mean log distance of a walk to its target by Adam.

    Args:
        walk: (numbers, x, cond) -> ends (batch, ...).
        starts: pytrees of numbers; the best of them is where the descent starts.
        x: where the walks start (batch, ...).
        target: where they should end (batch, ...).
        cond: conditions with leading axis `batch`.
        distance: (ends, target) -> (batch,).
        updates: how many, in all.
        rate: of learning, at the start.
        progress: called with the number of updates made and their total.

    Raises:
        ValueError: no walk from any of the starts ends in finite numbers.
    """
    fitted, held_out = _halves((x, target, cond))
    median, loss = _distances(walk, distance)
    size = max(updates // CHUNKS, 1)
    start_optimizer, chunk = _adam(loss, size)
    at_start = [float(median(numbers, held_out)) for numbers in starts]
    if not np.isfinite(at_start).any():
        raise ValueError(
            "no walk of this denoiser from these noises ends in finite numbers near the accurate "
            "ends; check the denoiser and, if they are given, the target and the distance"
        )
    best = numbers = starts[int(np.nanargmin(at_start))]
    history = [np.nanmin(at_start)]
    without_gain = 0
    state = start_optimizer(numbers)
    small = jnp.asarray(0.01 * history[0])
    slowest = SLOWEST * rate
    for i in range(CHUNKS):
        numbers, state = chunk(numbers, state, fitted, small, jnp.asarray(rate))
        history.append(float(median(numbers, held_out)))
        without_gain += 1
        if history[-1] <= np.nanmin(history):
            best = numbers
            without_gain = 0
        if progress is not None:
            progress((i + 1) * size, CHUNKS * size)
        if without_gain >= PATIENCE:
            numbers = best
            state = start_optimizer(best)
            rate = rate / 3
            without_gain = 0
            if rate < slowest:
                break
    return Descended(numbers=best, history=np.asarray(history))


def _distances(walk: Callable, distance: Distance) -> tuple[Callable, Callable]:
    """Return the median distance of a walk to its target, compiled, and the loss of Adam.

    They take the numbers and a batch (x, target, cond), the loss also the distance below which it
    no longer counts factors.
    """

    @eqx.filter_jit
    def median(numbers, batch):
        x, target, cond = batch
        return jnp.median(distance(walk(numbers, x, cond), target))

    def loss(numbers, batch, small):
        x, target, cond = batch
        return jnp.mean(jnp.log(distance(walk(numbers, x, cond), target) ** 2 + small**2))

    return median, loss


def _halves(batch: Any) -> tuple[Any, Any]:
    """Return the first and the second half of a batch, a pytree with one leading axis."""
    half = len(jax.tree.leaves(batch)[0]) // 2
    first = jax.tree.map(lambda a: a[:half], batch)
    second = jax.tree.map(lambda a: a[half:], batch)
    return first, second


def _adam(loss: Callable, updates: int) -> tuple[Callable, Callable]:
    """Return the start of Adam, numbers -> state, and a compiled function of `updates` updates."""
    import optax  # only here: the rest of the package works without it

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    @eqx.filter_jit
    def chunk(numbers, state, batch, small, rate):
        def update(_, carry):
            numbers, state = carry
            gradient = jax.grad(loss)(numbers, batch, small)
            change, state = optimizer.update(gradient, state, numbers)
            return jax.tree.map(lambda a, b: a - rate * b, numbers, change), state

        return jax.lax.fori_loop(0, updates, update, (numbers, state))

    return optimizer.init, chunk
