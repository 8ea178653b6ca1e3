"""Training: from a configuration and a run directory to checkpoints. Reads top to bottom.

A run directory holds `config.json` (resolved), `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `samples/`. Started again with the same
configuration, training goes on from the newest checkpoint and ends in bitwise the parameters of a run that was never stopped.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from models.embedding import with_no_label

from .. import data
from ..command.resolve import DECIDED
from ..errors import RunError
from ..run.adaptive import AdaptiveTimes
from ..run.build import Run, build, make_dataset, measure, with_parameters
from ..run.callbacks import Callback, Snapshot, call, check_callbacks
from ..run.check import check_data, check_devices, check_run, check_settings
from ..run.devices import describe, make_mesh, replicated, share
from ..run.log import Log
from ..run.losses import make_held_out_loss, make_loss, make_losses
from ..run.messages import Pace, progress, quoted, say, say_next
from ..run.signals import StopSignals
from ..state import init_state, make_train_step
from ..storage import pictures
from ..storage.checkpoint import Checkpoints, last_good, latest, restore, template_of
from ..storage.lock import locked
from ..storage.reading import read_object
from ..storage.saved_config import CONFIG, check_belongs, decisive, differences, read_config
from ..storage.workdir import run_directory
from ..storage.writing import write_json
from .sample import draw

# Sections that may change between two starts of a run; the rest decides what the parameters become.
FREE = ("sampling", "samplers", "eval", "fit", "dequantise", "devices")
FREE_TRAIN = (
    "steps",
    "log_every",
    "held_out_every",
    "sample_every",
    "checkpoint_every",
    "keep",
    "keep_period",
)

CONVERTED = "converted.json"  # beside a checkpoint that experiments.convert made: its step

_norm = jax.jit(optax.tree.norm)


def open_run(config: ConfigDict, workdir: Path) -> tuple[Run, data.DataSet]:
    """Measure the data and build the objects; nothing is written.

    Whatever is wrong is found before anything is written: a command that is refused leaves no folder behind.

    Raises:
        RunError: `workdir` holds a run of another configuration, or a config.json that is not of a run.
    """
    check_settings(config)
    dataset = make_dataset(config)
    run = build(config, measure(config, dataset), abstract=True)
    check_run(run)
    check_data(run, dataset, training=True)
    check_devices(run)
    saved, started = workdir / CONFIG, latest(workdir) is not None
    if saved.exists() and not started:
        _check_is_ours(saved)
    if saved.exists() and started:
        before = json.loads(read_config(workdir).to_json_best_effort())
        decisive = _decisive_when_converted if is_converted(workdir) else _decisive
        if changes := differences(decisive(before), decisive(_plain(run.config))):
            raise RunError(
                f"{workdir} holds a run of another configuration ({'; '.join(changes[:5])}); "
                "name another --workdir, or give that configuration to go on with it"
            )
    if started:
        check_belongs(workdir, run.config, sections=DECIDED if is_converted(workdir) else None)
    return with_parameters(run), dataset


def is_converted(workdir: Path) -> bool:
    """Whether the newest checkpoint of `workdir` is one that experiments.convert made, which nothing was trained on yet."""
    note = workdir / CONVERTED
    if not note.exists():
        return False
    remedy = "write into it the step of the converted checkpoint, or remove it if training went on"
    step = read_object(note, remedy).get("step")
    if not isinstance(step, int):
        raise RunError(f'{note} is damaged: it should hold {{"step": number}}; {remedy}')
    return step == latest(workdir)


def train(config: ConfigDict, workdir: str | Path, callbacks: Sequence[Callback] = ()) -> None:
    """Train, from the newest checkpoint in `workdir` if there is one.

    Args:
        config: a configuration, such as a file of `experiments/configs` returns.
        workdir: the run directory, made if it is missing.
        callbacks: called with (step, metrics, snapshot) whenever numbers are logged, see `callbacks`.

    Raises:
        RunError: the loss is no longer finite, a checkpoint cannot be written or read, a callback failed, or another process trains there.
    """
    workdir = run_directory(workdir)
    callbacks = check_callbacks(callbacks)
    with locked(workdir, "train"):
        _train(config, workdir, callbacks)


def _train(config: ConfigDict, workdir: Path, callbacks: Sequence[Callback]) -> None:
    run, dataset = open_run(config, workdir)
    settings, batch_size = run.config.train, run.config.train.batch_size
    mesh = make_mesh(batch_size, run.config.devices)
    stream = data.batches(
        dataset, settings.split, batch_size, seed=run.config.seed, train=True, flip=settings.flip
    )
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    state = jax.device_put(init_state(key, run.parameters(), run.tx), replicated(mesh))
    times = AdaptiveTimes(run.config.objective, make_losses(run), replicated(mesh))
    if latest(workdir) is not None:
        state, position = restore(workdir, template_of(state, replicated(mesh)))
        if position is not None:
            stream.set_state(times.restore(position))
        else:  # a converted checkpoint has seen none of these data, and perhaps no data without a label
            state = state._replace(params=with_no_label(state.params), ema=with_no_label(state.ema))
        say(f"going on from step {int(state.step)} of {workdir}")
    start = int(state.step)
    held_out = _held_out(run, dataset, mesh)
    with _stopping_well(workdir):  # only now that all of it has been tried
        write_json(workdir / CONFIG, _plain(run.config))
    if start >= settings.steps:
        say(f"{workdir} has made its {start} steps; raise --config.train.steps to go on")
        return

    train_step = make_train_step(make_loss(run), run.tx, run.config.ema, settings.accumulate)
    window, stop = [], None
    say(f"training on {describe(mesh)}")
    with (
        _stopping_well(workdir),
        Checkpoints(
            workdir, settings.keep, settings.keep_period, decisive(_plain(run.config))
        ) as checkpoints,
        Log(workdir, start) as log,
        StopSignals() as signals,
        progress(settings.steps, "train", start) as bar,
    ):
        pace = Pace(start, settings.steps)
        for step in range(start + 1, settings.steps + 1):
            checkpoints.check()
            batches = [times.join(share(mesh, next(stream))) for _ in range(settings.accumulate)]
            state, metrics = train_step(state, batches if len(batches) > 1 else batches[0])
            pace.made(step, metrics)
            times.update(state, batches[-1], step)
            window.append(metrics)
            ending = step == settings.steps or bool(signals.received)
            saving = ending or step % settings.checkpoint_every == 0
            measuring = held_out is not None and (
                step == settings.steps or step % settings.held_out_every == 0
            )
            if saving or measuring or step % settings.log_every == 0:
                values = _check_finite(window, state.params, step, checkpoints)
                if held_out is not None and measuring:
                    values |= held_out(state.ema)
                log.scalars(step, values)
                bar.update(step - bar.n)
                bar.set_postfix(loss=f"{values['train/loss']:.4f}")
                window = []
                stop = call(callbacks, step, values, Snapshot(workdir, run, state))
            if saving or stop:
                checkpoints.save(step, state, times.keep(stream.get_state()))
            if settings.sample_every and step % settings.sample_every == 0:
                _show_samples(run, state.ema, step, log, workdir)
            if ending or stop:
                break
    if stop and stop.error:
        raise RunError(
            f"{stop.reason}; the checkpoint of that step is saved. Mend the callback; the same command goes on from there."
        ) from stop.error
    reason = f"by {signals.received}" if signals.received else stop and stop.reason
    if reason and step < settings.steps:
        say(
            f"stopped at step {step} {reason}; checkpoint saved. The same command goes on from there."
        )
        return
    say(
        f"trained {step} steps; checkpoints, metrics.jsonl and tensorboard are in {workdir} "
        f"(to see the losses: tensorboard --logdir={quoted(workdir)})"
    )
    say_next(workdir, "sample")


@contextlib.contextmanager
def _stopping_well(workdir: Path):
    """Say where a run can go on from if it cannot read or write a file."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"training stopped ({error}); {last_good(workdir)}. Mend the cause; the same command goes on from there."
        ) from error


def _check_finite(
    window: list, params: Any, step: int, checkpoints: Checkpoints
) -> dict[str, float]:
    """Fetch the metrics since the last look; return their means, or stop the run."""
    loss, grad_norm = np.asarray(jax.device_get([(m.loss, m.grad_norm) for m in window])).T
    good = np.isfinite(loss) & np.isfinite(grad_norm)
    good[-1] &= np.isfinite(_norm(params))  # as a checkpoint would keep them
    if not good.all():
        checkpoints.wait()
        first = step - len(window) + 1 + int(np.argmin(good))
        raise RunError(
            f"the loss, its gradient or the parameters are no longer finite from step {first} on (seen at step {step}); "
            f"{last_good(checkpoints.directory.parent)}. Lower --config.optim.lr, or set --config.optim.clip."
        )
    return {"train/loss": float(loss.mean()), "train/grad_norm": float(grad_norm.mean())}


def _held_out(run: Run, dataset: data.DataSet, mesh):
    """Return the function params -> scalars of held-out loss by noise level, or None if no split is held out."""
    split = run.config.train.held_out
    if not split:
        return None
    size = min(len(dataset.source(split)), 256)
    batch = share(mesh, next(data.batches(dataset, split, size, seed=run.config.seed, train=False)))
    losses, times = make_held_out_loss(run)

    def scalars(params: Any) -> dict[str, float]:
        values = np.asarray(losses(params, jax.random.key(0), batch))
        return {"held_out/loss": float(values.mean())} | {
            f"held_out/t={t:.2g}": float(v) for t, v in zip(times, values, strict=True)
        }

    return scalars


def _show_samples(run: Run, params: Any, step: int, log: Log, workdir: Path) -> None:
    """Draw a few samples with the averaged weights, for the eye; a picture that fails is reported and costs the run nothing."""
    setting = run.config.samplers[run.config.sampling.sampler]
    number = 64 if len(run.facts.shape) == 3 else 1000
    try:
        x, _ = draw(run, run.denoiser(params), setting, np.arange(number))
        picture = pictures.picture(x, run.facts.codec)
        log.picture(step, "samples", picture)
        pictures.save_png(workdir / "samples" / f"train_{step:07d}.png", picture)
    except Exception as error:  # whatever a sampler or a library of pictures raises
        say(
            f"no picture of samples at step {step} ({type(error).__name__}: {error}); training goes on"
        )


def _check_is_ours(path: Path) -> None:
    """Raise a RunError if a config.json is not one of a run that has saved nothing yet, but somebody else's."""
    found = read_object(path, "move it away, or name another --workdir")
    if not found.keys() >= {"sde", "net", "denoiser", "train"}:
        raise RunError(f"{path} is not the configuration of a run; name another --workdir")


def _plain(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _decisive(config: dict) -> dict:
    """Return what decides what the parameters become."""
    kept = {k: v for k, v in config.items() if k not in FREE}
    return kept | {"train": {k: v for k, v in config["train"].items() if k not in FREE_TRAIN}}


def _decisive_when_converted(config: dict) -> dict:
    return {section: config[section] for section in DECIDED}
