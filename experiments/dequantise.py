r"""`--mode=dequantise`: train a flow q(u | k) that places grey levels where the model expects them, for tighter bits per dimension.

For any q, with y = k + u and x its scaled form (arXiv:1902.00275, eq. 9; Song et al. 2021, arXiv:2101.09258, section 5.2),

.. math:: -\log P(k) \le E_{u \sim q(u \mid k)} \big[ {-\log p(y)} + \log q(u \mid k) \big] .

While training, -log p is the integrand of the variational bound at one log-SNR an image; the score network stays as it is. The flow is kept
in `dequantiser/` of the run and used by `--mode=likelihood --config.eval.dequantise=True`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

import models
from samplers.bound import LOG_SNR_MIN
from sde_lib import LogUniform, draw_quantiles

from . import checkpoint, data
from .build import Loaded, make_dataset
from .devices import make_mesh, replicated, share
from .errors import RunError
from .flow import DequantisingFlow
from .log import Log
from .messages import progress, say, say_next
from .state import init_state, make_optimizer, make_train_step


class Dequantiser:
    """The flow of a run: its network, split, and how images are made of grey levels with it."""

    def __init__(self, loaded: Loaded):
        facts, settings = loaded.run.facts, loaded.run.config.dequantise
        if facts.levels is None:
            raise RunError("the data are continuous: there is nothing to dequantise")
        net = DequantisingFlow(
            facts.shape,
            width=settings.width,
            layers=settings.layers,
            rngs=nnx.Rngs(loaded.run.config.seed),
        )
        self.levels, self.split = facts.levels, models.split(net)
        self.tx = make_optimizer(
            lr=settings.lr, warmup=min(100, settings.steps // 2), decay_steps=settings.steps
        )

    def __call__(self, params: Any, z: Array, k: Array) -> tuple[Array, Array]:
        """Return scaled images (batch, H, W, C) and log q, (batch,), from standard normal z and whole grey levels k."""
        u, log_q = models.merge(self.split.evaluate, params)(z, (2 * k + 1) / self.levels - 1)
        return (k + u) * (2 / self.levels) - 1, log_q

    def template(self) -> Any:
        """Return what a checkpoint of it is restored into."""
        state = jax.eval_shape(
            lambda params: init_state(jax.random.key(0), params, self.tx), self.split.params
        )
        return checkpoint.template_of(state, replicated(make_mesh(1, 1)))


def make_loss(loaded: Loaded, dequantiser: Dequantiser):
    """Return the loss (params, key, batch) of a flow, nats a dimension but for constants, for `make_train_step`."""
    run, sde = loaded.run, loaded.sde
    times = LogUniform(log_snr_min=LOG_SNR_MIN)
    ends = sde.log_snr(jnp.asarray([sde.t_min, 1.0]))
    span = ends[0] - jnp.maximum(ends[1], LOG_SNR_MIN)

    def loss(params: Any, key: Array, batch: dict) -> Array:
        for_z, for_times, for_noise = jax.random.split(key, 3)
        k = jnp.clip(
            jnp.floor((batch["x"] + 1) * dequantiser.levels / 2), 0, dequantiser.levels - 1
        )
        x, log_q = dequantiser(params, jax.random.normal(for_z, k.shape), k)
        t = times.quantile(sde, draw_quantiles(for_times, len(k)))
        cond = batch["label"] if run.config.train.conditional else None
        noisy, noise = sde.perturb(for_noise, x, t)
        error = jnp.mean((noise - loaded.denoiser(noisy, t, cond).noise) ** 2)
        return 0.5 * span * error + jnp.mean(log_q) / k[0].size

    return loss


def dequantise(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=dequantise`."""
    run, settings = loaded.run, loaded.run.config.dequantise
    folder, dequantiser = workdir / "dequantiser", Dequantiser(loaded)
    mesh = make_mesh(settings.batch_size, run.config.devices)
    stream = data.batches(
        make_dataset(run.config),
        run.config.train.split,
        settings.batch_size,
        seed=run.config.seed,
        train=True,
    )
    state = jax.device_put(
        init_state(jax.random.key(run.config.seed), dequantiser.split.params, dequantiser.tx),
        replicated(mesh),
    )
    if checkpoint.latest(folder) is not None:
        state, position = checkpoint.restore(folder, dequantiser.template())
        state = jax.device_put(state, replicated(mesh))
        stream.set_state(position)
    start = int(state.step)
    step_of = make_train_step(make_loss(loaded, dequantiser), dequantiser.tx, run.config.ema)
    folder.mkdir(parents=True, exist_ok=True)
    window = []
    with (
        checkpoint.Checkpoints(folder, keep=1) as checkpoints,
        Log(folder, start) as log,
        progress(settings.steps, "dequantise", start) as bar,
    ):
        for step in range(start + 1, settings.steps + 1):
            state, metrics = step_of(state, share(mesh, next(stream)))
            window.append(metrics.loss)
            bar.update()
            if step == settings.steps or step % run.config.train.log_every == 0:
                loss = float(np.mean(jax.device_get(window)))
                if not np.isfinite(loss):
                    raise RunError(
                        f"the loss of the dequantiser is {loss} at step {step}; lower --config.dequantise.lr"
                    )
                log.scalars(step, {"dequantise/loss": loss})
                window = []
            if step == settings.steps or step % run.config.train.checkpoint_every == 0:
                checkpoints.save(step, state, stream.get_state())
    say(f"the dequantiser has made {settings.steps} steps and is in {folder}")
    say_next(workdir, "likelihood", "--config.eval.dequantise=True")


def restore_dequantiser(loaded: Loaded, workdir: Path):
    """Return the function (key, x) -> (x, log q) that redraws the place of scaled images `x` between their grey levels.

    Raises:
        RunError: the run has no trained dequantiser, or one of other settings.
    """
    if checkpoint.latest(workdir / "dequantiser") is None:
        raise RunError(f"{workdir} has no dequantiser; train one with --mode=dequantise")
    dequantiser = Dequantiser(loaded)
    params = checkpoint.restore(workdir / "dequantiser", dequantiser.template()).state.ema

    @jax.jit
    def redraw(keys: Array, x: Array) -> tuple[Array, Array]:
        k = jnp.clip(jnp.floor((x + 1) * dequantiser.levels / 2), 0, dequantiser.levels - 1)
        return dequantiser(
            params, jax.vmap(lambda key: jax.random.normal(key, k.shape[1:]))(keys), k
        )

    return redraw
