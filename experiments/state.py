"""One training step, usable from any loop: no flags, no configuration, any callable as the network.

A step draws its randomness from ``fold_in(key, step)``, so that a run resumed from a `TrainState` is bitwise the run never stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from models.mp_unet import normalised

Params = Any
LossFn = Callable[[Params, Key[Array, ""], Any], Float[Array, ""]]  # (params, key, batch) -> scalar


class TrainState(NamedTuple):
    """Everything that training changes, as plain containers of arrays."""

    step: Int[Array, ""]  # updates made
    params: Params
    ema: Params  # exponential moving average of params, the weights to sample with
    opt: optax.OptState
    key: Key[Array, ""]  # of the run; never changes


class Metrics(NamedTuple):
    """Of one step, before its update."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]


def init_state(key: Key[Array, ""], params: Params, tx: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step; it owns a copy of `params`, as steps donate their state."""

    @jax.jit  # one program, not one for every shape
    def init(key, params):
        own, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))
        return TrainState(jnp.zeros((), jnp.int32), own, ema, tx.init(params), jnp.copy(key))

    return init(key, params)


def ema_update(ema: Params, params: Params, rate: float, step: Int[Array, ""]) -> Params:
    """Move the average towards `params`, at a rate that warms up as min(rate, (1 + n) / (10 + n)) with n = step + 1 updates."""
    n = step + 1
    warm = jnp.minimum(rate, (1 + n) / (10 + n))
    return jax.tree.map(lambda e, p: e + (1 - warm) * (p - e), ema, params)


def make_train_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, ema_rate: float = 0.999
) -> Callable:
    """Return the compiled step (state, batch) -> (state, Metrics); it donates the state it is given."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        loss, grads = jax.value_and_grad(loss_fn)(
            state.params, jax.random.fold_in(state.key, state.step), batch
        )
        updates, opt = tx.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = ema_update(state.ema, params, ema_rate, state.step)
        return TrainState(state.step + 1, params, ema, opt, state.key), Metrics(
            loss, optax.tree.norm(grads)
        )

    return jax.jit(step, donate_argnums=0)


def ended_at_unit_magnitude() -> optax.GradientTransformation:
    """Return the transformation that ends every step at weights of unit magnitude, for networks in which their direction alone counts.

    Otherwise such weights grow with every step, and the effective learning rate falls (Karras et al. 2024, arXiv:2312.02696, section 2.3).
    """

    def init(params: Params) -> optax.EmptyState:
        if not any(
            getattr(path[-1], "key", None) == "weight"
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ):
            raise ValueError(
                "optim.unit_weights is for networks whose weights count by their direction, such as MPUNet; leave it False"
            )
        return optax.EmptyState()

    def update(updates, state, params):
        ends = normalised(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, ends, params), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def make_optimizer(
    lr: float = 2e-4,
    warmup: int = 5000,
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay_steps: int = 0,
    unit_weights: bool = False,
) -> optax.GradientTransformation:
    """Return Adam with gradient clipping (0: none), a linear warm-up from 0, then constant or, with `decay_steps`, a cosine to 0 there.

    With `unit_weights` every step ends at weights of unit magnitude.
    """
    if lr <= 0 or warmup < 0 or clip < 0:
        raise ValueError(f"need lr > 0, warmup >= 0 and clip >= 0, got {lr}, {warmup} and {clip}")
    if decay_steps and decay_steps <= warmup:
        raise ValueError(
            f"the cosine ends at decay_steps = {decay_steps}, but the warm-up lasts {warmup} steps; make it shorter"
        )
    after = (
        optax.cosine_decay_schedule(lr, decay_steps - warmup)
        if decay_steps
        else optax.constant_schedule(lr)
    )
    schedule = optax.join_schedules(
        [optax.linear_schedule(0.0, lr, max(warmup, 1)), after], [warmup]
    )
    last = (ended_at_unit_magnitude(),) if unit_weights else ()
    return optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        optax.adam(schedule, b1, b2, eps),
        *last,
    )
