"""What training minimises: the losses of a configuration, and what is measured on held-out data.

Held-out data are looked at by noise level.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sde_lib
from sde_lib import (
    Binned,
    LogUniform,
    TimeDistribution,
    classification_loss,
    denoising_loss,
    draw_quantiles,
    uncertainty,
    uncertainty_loss,
)

from .adaptive import WEIGHTS
from .augmentation import augmented
from .build import UNCERTAINTY, Run, make
from .conditions import conditions_of

OF_AUGMENTATION = 0xFFFFFFFF  # what the key of labels is folded with
FIRST_PASS = 0.5  # how often self-conditioning sees an estimate: Chen et al. 2022, section 3


def make_losses(run: Run):
    """Return the function (params, keys, batch, times, u) -> losses (batch,) of a configuration.

    It takes three keys, the distribution of times, and the quantiles u (batch,) of that which the
    examples are perturbed to.
    """
    if run.classifies:
        return _classifier_losses(run)
    objective = run.config.objective
    sde_lib.check_name("weighting", objective.weighting, sde_lib.WEIGHTINGS)
    loss_of = sde_lib.OBJECTIVES[objective.name]

    def losses(
        params: Any, keys: Any, batch: dict, times: TimeDistribution, u: jax.Array
    ) -> jax.Array:
        for_noise, for_labels, dropout = keys
        t = times.quantile(run.sde, u)
        if run.config.train.augment:
            for_augmentation = jax.random.fold_in(for_labels, OF_AUGMENTATION)
            batch = augmented(for_augmentation, batch, run.config.train.augment)
        dropped = jax.random.bernoulli(for_labels, run.config.train.label_dropout, t.shape)
        cond = conditions_of(run, batch, dropped)
        asked_twice = {}
        if run.self_conditioning:
            key = jax.random.fold_in(for_labels, 1)
            asked_twice = {"first_pass": jax.random.bernoulli(key, FIRST_PASS)}
        denoiser = run.denoiser(params, dropout)
        loss = loss_of(for_noise, denoiser, batch["x"], t, cond, objective.weighting, **asked_twice)
        if objective.uncertainty:
            loss = uncertainty_loss(loss, uncertainty(params[UNCERTAINTY], run.sde, t))
        return loss

    return losses


def _classifier_losses(run: Run):
    """Return the cross-entropies of a classifier, as `make_losses` does."""

    def losses(
        params: Any, keys: Any, batch: dict, times: TimeDistribution, u: jax.Array
    ) -> jax.Array:
        for_noise, _, dropout = keys
        classifier = run.classifier(params, dropout)
        t = times.quantile(run.sde, u)
        return classification_loss(for_noise, classifier, batch["x"], t, batch["label"])

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


def make_held_out(run: Run, levels: int = 8):
    """Return the function (params, key, batch) -> {name: (levels,)}, and the times of the levels.

    The names are "loss" and, of a classifier, "accuracy". The noise levels are equally spaced in
    log-SNR.
    """
    t = LogUniform(log_snr_min=-10.0).quantile(run.sde, (jnp.arange(levels) + 0.5) / levels)
    measure = _classification if run.classifies else _denoising

    def measures(params: Any, key: jax.Array, batch: dict) -> dict[str, jax.Array]:
        def at(t):
            times = jnp.full(len(batch["x"]), t)
            return measure(run, params, key, batch, times)

        return jax.lax.map(at, t)

    return jax.jit(measures), np.asarray(t)


def _denoising(
    run: Run, params: Any, key: jax.Array, batch: dict, t: jax.Array
) -> dict[str, jax.Array]:
    """Return the mean denoising loss of a batch."""
    loss = denoising_loss(key, run.denoiser(params), batch["x"], t, conditions_of(run, batch))
    return {"loss": jnp.mean(loss)}


def _classification(
    run: Run, params: Any, key: jax.Array, batch: dict, t: jax.Array
) -> dict[str, jax.Array]:
    """Return the mean cross-entropy of a batch, and the fraction that is classified correctly."""
    x, _ = run.sde.perturb(key, batch["x"], t)
    logits = run.classifier(params)(x, t)
    log_probs = jax.nn.log_softmax(logits)
    of_class = jnp.take_along_axis(log_probs, batch["label"][:, None], axis=1)
    correct = logits.argmax(1) == batch["label"]
    return {"loss": -jnp.mean(of_class), "accuracy": jnp.mean(correct)}
