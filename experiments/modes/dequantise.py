r"""`--mode=dequantise`: train a flow q(u | k) that places grey levels where the model expects them.

The bits per dimension become tighter. For any q, with y = k + u and x its scaled form
(arXiv:1902.00275, eq. 9; Song et al. 2021, arXiv:2101.09258, section 5.2),

.. math:: -\log P(k) \le E_{u \sim q(u \mid k)} \big[ {-\log p(y)} + \log q(u \mid k) \big] .

While training, -log p is the integrand of the variational bound at one log-SNR an image; the score
network stays as it is. The flow is kept in `dequantiser/` of the run and used by
`--mode=likelihood --config.eval.dequantise=True`.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

import models
from samplers.bound import LOG_SNR_MIN
from sde_lib import LogUniform, draw_quantiles

from .. import data
from ..card.page import update_card
from ..errors import RunError
from ..run.build import Run, make_dataset
from ..run.conditions import conditions_of
from ..run.devices import make_mesh
from ..run.flow import DequantisingFlow
from ..run.loading import Loaded, template_on_one_device
from ..run.log import Log
from ..run.messages import progress, say, say_next
from ..run.placement import replicated, share
from ..run.signals import StopSignals
from ..state import TrainState, init_state, make_optimizer, make_train_step
from ..storage import checkpoint
from ..storage.checkpoint_folder import find, weights_hash
from ..storage.identity import data_hash, identity
from ..storage.jobs import claim, read_note
from ..storage.lock import locked

FOLDER = "dequantiser"


class Dequantiser:
    """The flow of a run, and how it makes images of grey levels.

    Args:
        loaded: the run.
        width: features of a coupling; None: as `config.dequantise` says.
        layers: number of couplings; None: as `config.dequantise` says.

    Raises:
        RunError: the data have no grey levels.
    """

    def __init__(self, loaded: Loaded, width: int | None = None, layers: int | None = None):
        facts = loaded.run.facts
        settings = loaded.run.config.dequantise
        if facts.levels is None:
            raise RunError("the data are continuous: there is nothing to dequantise")
        self.settings = {"width": width or settings.width, "layers": layers or settings.layers}
        net = DequantisingFlow(
            facts.shape,
            **self.settings,
            rngs=models.rngs_of(loaded.run.config.seed),
        )
        self.levels = facts.levels
        self.split = models.split(net)
        self.tx = make_optimizer(
            lr=settings.lr, warmup=min(100, settings.steps // 2), decay_steps=settings.steps
        )

    def __call__(self, params: Any, z: Array, k: Array) -> tuple[Array, Array]:
        """Return scaled images (batch, H, W, C) and log q (batch,), in nats.

        `z` is standard normal and `k` holds whole grey levels, both (batch, H, W, C).
        """
        u, log_q = models.merge(self.split.evaluate, params)(z, (2 * k + 1) / self.levels - 1)
        return (k + u) * (2 / self.levels) - 1, log_q

    def grey_levels(self, x: Array) -> Array:
        """Return the whole grey levels 0..levels-1, as floats, that model values x fall into."""
        return jnp.clip(jnp.floor((x + 1) * self.levels / 2), 0, self.levels - 1)

    def template(self) -> Any:
        """Return what a checkpoint of it is restored into."""
        return template_on_one_device(self.split.params, self.tx)


def make_loss(loaded: Loaded, dequantiser: Dequantiser):
    """Return the loss (params, key, batch) -> scalar of a flow, for `make_train_step`.

    It is in nats a dimension, but for constants.
    """
    run = loaded.run
    sde = loaded.sde
    times = LogUniform(log_snr_min=LOG_SNR_MIN)
    ends = sde.log_snr(jnp.asarray([sde.t_min, 1.0]))
    span = ends[0] - jnp.maximum(ends[1], LOG_SNR_MIN)

    def loss(params: Any, key: Array, batch: dict) -> Array:
        for_z, for_times, for_noise = jax.random.split(key, 3)
        k = dequantiser.grey_levels(batch["x"])
        x, log_q = dequantiser(params, jax.random.normal(for_z, k.shape), k)
        t = times.quantile(sde, draw_quantiles(for_times, len(k)))
        cond = conditions_of(run, batch)
        noisy, noise = sde.perturb(for_noise, x, t)
        error = jnp.mean((noise - loaded.denoiser(noisy, t, cond).noise) ** 2)
        return 0.5 * span * error + jnp.mean(log_q) / k[0].size

    return loss


def dequantise(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=dequantise`: train the flow.

    Training goes on from the newest checkpoint of the flow if that is of the same run and settings.
    """
    with locked(workdir, "dequantise"):
        _train_flow(loaded, workdir / FOLDER)
    update_card(workdir)


def _train_flow(loaded: Loaded, folder: Path) -> None:
    """Train the flow of a run to its last step, or until a signal, and say what was done."""
    run = loaded.run
    settings = run.config.dequantise
    dequantiser = Dequantiser(loaded)
    dataset = make_dataset(run.config)
    mesh = make_mesh(settings.batch_size, run.config.devices)
    stream = data.batches(
        dataset, run.config.train.split, settings.batch_size, seed=run.config.seed, train=True
    )
    claim(folder, _note(loaded, dataset), results="checkpoints/*")
    state = _first_state(run, dequantiser, folder, stream, mesh)
    start = int(state.step)
    if start >= settings.steps:
        say(f"{folder} has made its {start} steps; raise --config.dequantise.steps to go on")
        return
    loss = make_loss(loaded, dequantiser)
    train_step = make_train_step(loss, dequantiser.tx, run.config.ema)
    step, signal = _loop(run, train_step, state, folder, stream, mesh)
    if step < settings.steps:
        say(
            f"stopped at step {step} by {signal}; checkpoint saved. The same command goes on from "
            "there."
        )
        return
    say(f"the dequantiser has made {step} steps and is in {folder}")
    say_next(folder.parent, "likelihood", "--config.eval.dequantise=True")


def _first_state(
    run: Run, dequantiser: Dequantiser, folder: Path, stream: Any, mesh: Mesh
) -> TrainState:
    """Return the state of the newest checkpoint, with the stream at its place, or a new state."""
    if checkpoint.latest(folder) is None:
        key = jax.random.key(run.config.seed)
        state = init_state(key, dequantiser.split.params, dequantiser.tx)
        return jax.device_put(state, replicated(mesh))
    state, position = checkpoint.restore(folder, dequantiser.template())
    stream.set_state(position)
    say(f"going on from step {int(state.step)} of {folder}")
    return jax.device_put(state, replicated(mesh))


def _loop(
    run: Run, train_step: Callable, state: TrainState, folder: Path, stream: Any, mesh: Mesh
) -> tuple[int, str | None]:
    """Make the steps from `state` on; return the last one, and the signal that ended it, if any."""
    settings = run.config.dequantise
    start = step = int(state.step)
    losses = []  # of the steps since they were last logged
    with (
        checkpoint.Checkpoints(folder, keep=1) as checkpoints,
        Log(folder, start) as log,
        StopSignals() as signals,
        progress(settings.steps, "dequantise", start) as bar,
    ):
        for step in range(start + 1, settings.steps + 1):
            checkpoints.check()
            state, metrics = train_step(state, share(mesh, next(stream)))
            losses.append(metrics.loss)
            bar.update()
            last = step == settings.steps or signals.received
            saving = last or step % run.config.train.checkpoint_every == 0
            if saving or step % run.config.train.log_every == 0:
                log.scalars(step, {"dequantise/loss": _finite_mean(losses, step, folder)})
                losses = []
            if saving:
                checkpoints.save(step, state, stream.get_state())
            if last:
                break
    return step, signals.received


def _finite_mean(losses: list, step: int, folder: Path) -> float:
    """Return the mean of the losses up to a step; raise a RunError if it is not finite."""
    loss = float(np.mean(jax.device_get(losses)))
    if not np.isfinite(loss):
        raise RunError(
            f"the loss of the dequantiser is {loss} at step {step}; "
            f"{checkpoint.last_good(folder)}. Lower --config.dequantise.lr"
        )
    return loss


def _note(loaded: Loaded, dataset: data.DataSet) -> dict[str, Any]:
    """Return what a flow depends on beside the number of its steps, as plain JSON."""
    config = loaded.run.config
    note = identity(loaded)
    del note["code"]  # training goes on with newer code, as that of the score does
    note |= {name: config.dequantise[name] for name in ("batch_size", "lr", "width", "layers")}
    note |= {
        "seed": config.seed,
        "ema": config.ema,
        "data": data_hash(dataset, config.train.split, limit=10_000),
    }
    return note


class Redraw(NamedTuple):
    """A trained flow, as the function (keys, x) -> (x, log q).

    It draws anew where the values of scaled images `x` lie within their grey levels.
    """

    dequantiser: Dequantiser
    params: Any
    weights: str  # what identifies them: the hash of their checkpoint's manifest

    def __call__(self, keys: Array, x: Array) -> tuple[Array, Array]:
        """Return images (batch, H, W, C) and log q (batch,), with a key for each image."""
        return _redraw(self.dequantiser, self.params, keys, x)


@partial(jax.jit, static_argnums=0)
def _redraw(dequantiser: Dequantiser, params: Any, keys: Array, x: Array) -> tuple[Array, Array]:
    k = dequantiser.grey_levels(x)
    z = jax.vmap(lambda key: jax.random.normal(key, k.shape[1:]))(keys)
    return dequantiser(params, z, k)


def restore_dequantiser(loaded: Loaded, workdir: Path) -> Redraw:
    """Return the trained flow of a run, of the size that it was trained with.

    Warn if it was trained for other weights.

    Raises:
        RunError: the run has no trained dequantiser, or it is damaged.
    """
    folder = workdir / FOLDER
    if checkpoint.latest(folder) is None:
        raise RunError(f"{workdir} has no dequantiser; train one with --mode=dequantise")
    note = read_note(folder) or {}
    if note.get("weights", loaded.weights) != loaded.weights:
        warnings.warn(
            f"{folder} was trained for other weights than those of step {loaded.step}; the bits "
            "are right, but --mode=dequantise would make them fewer",
            stacklevel=2,
        )
    sizes = {name: note[name] for name in ("width", "layers") if name in note}
    dequantiser = Dequantiser(loaded, **sizes)
    weights = weights_hash(find(folder, None))
    params = checkpoint.restore(folder, dequantiser.template()).state.ema
    return Redraw(dequantiser=dequantiser, params=params, weights=weights)
