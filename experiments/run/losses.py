"""What training minimises: the losses of a configuration, and the held-out loss by noise level."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sde_lib
from sde_lib import (
    Binned,
    LogUniform,
    TimeDistribution,
    denoising_loss,
    draw_quantiles,
    uncertainty,
    uncertainty_loss,
)

from .adaptive import WEIGHTS
from .build import UNCERTAINTY, Run, make
from .conditions import conditions_of


def make_losses(run: Run):
    """Return the function (params, keys, batch, times, u) -> losses (batch,) of a configuration.

    It takes three keys, the distribution of times, and the quantiles u (batch,) of that which the
    examples are perturbed to.
    """
    objective = run.config.objective
    sde_lib.check_name("weighting", objective.weighting, sde_lib.WEIGHTINGS)
    loss_of = sde_lib.OBJECTIVES[objective.name]

    def losses(
        params: Any, keys: Any, batch: dict, times: TimeDistribution, u: jax.Array
    ) -> jax.Array:
        for_noise, for_labels, dropout = keys
        t = times.quantile(run.sde, u)
        dropped = jax.random.bernoulli(for_labels, run.config.train.label_dropout, t.shape)
        cond = conditions_of(run, batch, dropped)
        loss = loss_of(
            for_noise, run.denoiser(params, dropout), batch["x"], t, cond, objective.weighting
        )
        if objective.uncertainty:
            loss = uncertainty_loss(loss, uncertainty(params[UNCERTAINTY], run.sde, t))
        return loss

    return losses


def make_loss(run: Run):
    """Return the loss (params, key, batch) -> scalar of a configuration, for `make_train_step`."""
    losses = make_losses(run)
    base = make(sde_lib, run.config.objective.times, TimeDistribution)

    def loss_fn(params: Any, key: jax.Array, batch: dict) -> jax.Array:
        for_times, *keys = jax.random.split(key, 4)
        u = draw_quantiles(for_times, len(batch["x"]), run.config.objective.stratified)
        times = Binned(base, batch[WEIGHTS]) if WEIGHTS in batch else base
        return jnp.mean(times.correction(u) * losses(params, keys, batch, times, u))

    return loss_fn


def make_held_out_loss(run: Run, levels: int = 8):
    """Return the function (params, key, batch) -> losses (levels,), and the times of the levels.

    The noise levels are equally spaced in log-SNR.
    """
    t = LogUniform(log_snr_min=-10.0).quantile(run.sde, (jnp.arange(levels) + 0.5) / levels)

    def losses(params: Any, key: jax.Array, batch: dict) -> jax.Array:
        cond = conditions_of(run, batch)
        denoiser = run.denoiser(params)

        def at(t):
            times = jnp.full(len(batch["x"]), t)
            return jnp.mean(denoising_loss(key, denoiser, batch["x"], times, cond))

        return jax.lax.map(at, t)

    return jax.jit(losses), np.asarray(t)
