"""One training step, usable from any loop: no flags, no configuration, any callable as the network.

A step draws its randomness from ``fold_in(key, step)``, so that a run resumed from a `TrainState`
is bitwise the run never stopped.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from .run.optimizers import make_optimizer as make_optimizer

Params = Any
LossFn = Callable[[Params, Key[Array, ""], Any], Float[Array, ""]]  # (params, key, batch) -> scalar
# (average, params, updates made before) -> average
AverageFn = Callable[[Params, Params, Int[Array, ""]], Params]


class TrainState(NamedTuple):
    """Everything that training changes, as plain containers of arrays."""

    step: Int[Array, ""]  # updates made
    params: Params
    ema: Params  # exponential moving average of params, the weights to sample with
    opt: optax.OptState
    key: Key[Array, ""]  # of the run; never changes
    averages: tuple[Params, ...] = ()  # further averages of params, each by a rule of its own


class Metrics(NamedTuple):
    """Of one step, before its update."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]


def init_state(
    key: Key[Array, ""],
    params: Params,
    tx: optax.GradientTransformation,
    averages: int = 0,
    shardings: Any = None,
) -> TrainState:
    """Return the state before the first step, with a number of further averages.

    It owns a copy of `params`, as steps donate their state. `shardings`: where its arrays are to
    be; a tuple like it, or one for all of them.
    """

    def init(key, params):
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=jax.tree.map(jnp.copy, params),
            ema=jax.tree.map(jnp.copy, params),
            opt=tx.init(params),
            key=jnp.copy(key),
            averages=tuple(jax.tree.map(jnp.copy, params) for _ in range(averages)),
        )

    # one program, not one for every shape
    return jax.jit(init, out_shardings=shardings)(key, params)


def abstract_state(
    params: Params, tx: optax.GradientTransformation, averages: int = 0
) -> TrainState:
    """Return the shapes and types of a state; nothing is computed.

    `params` may be shapes as well.
    """
    return jax.eval_shape(
        lambda params: init_state(jax.random.key(0), params, tx, averages), params
    )


def ema_update(ema: Params, params: Params, rate: float, step: Int[Array, ""]) -> Params:
    """Move the average towards `params`, at a rate that warms up.

    The rate is min(rate, (1 + n) / (10 + n)) with n = step + 1 updates.
    """
    n = step + 1
    warm = jnp.minimum(rate, (1 + n) / (10 + n))
    return jax.tree.map(lambda e, p: e + (1 - warm) * (p - e), ema, params)


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_rate: float = 0.999,
    accumulate: int = 1,
    averages: Sequence[AverageFn] = (),
    shardings: Any = None,
) -> Callable:
    """Return the compiled step (state, batch) -> (state, Metrics).

    It donates the state it is given. `averages` are the rules of the further averages that the
    state keeps, in their order. `shardings`: where the arrays of the new state are to be, see
    `init_state`.

    With `accumulate` = k above 1 a step takes a sequence of k batches of one size instead of a
    batch, and updates once, along the mean of their gradients: for a loss that is a mean over
    examples, what one batch of all their examples would give, in the memory of one. `state.step`,
    the moving average and the learning rate count updates. Batch i draws its randomness from
    ``fold_in(key, i)``, where `key` is that of the step.
    """
    if accumulate < 1:
        raise ValueError(f"need accumulate >= 1, got {accumulate}")
    gradient = jax.value_and_grad(loss_fn)
    if accumulate > 1:
        gradient = _mean_over_batches(gradient, accumulate)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        loss, grads = gradient(state.params, key, batch)
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = ema_update(state.ema, params, ema_rate, state.step)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema=ema,
            opt=opt,
            key=state.key,
            averages=tuple(
                update(average, params, state.step)
                for average, update in zip(state.averages, averages, strict=True)
            ),
        )
        return new_state, Metrics(loss=loss, grad_norm=optax.tree.norm(grads))

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _mean_over_batches(gradient: Callable, count: int) -> Callable:
    """Return the function (params, key, batches) -> means of loss and gradient.

    It goes through `count` batches, one after the other.
    """

    def mean(params: Params, key: Array, batches: Sequence[Any]) -> Any:
        if len(batches) != count:
            raise ValueError(f"a step takes {count} batches, got {len(batches)}")
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

        def add(total, numbered):
            number, batch = numbered
            loss_and_gradient = gradient(params, jax.random.fold_in(key, number), batch)
            return jax.tree.map(jnp.add, total, loss_and_gradient), None

        first = jax.tree.map(lambda a: a[0], stacked)
        shapes = jax.eval_shape(gradient, params, key, first)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), stacked))
        return jax.tree.map(lambda a: a / count, total)

    return mean
