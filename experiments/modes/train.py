"""Training: from a configuration and a run directory to checkpoints.

A run directory holds `config.json` (resolved), `checkpoints/`, `metrics.jsonl`, `tensorboard/`,
`samples/`, `training.json` and `card.md`. Started again with the same configuration, training goes
on from the newest checkpoint, to bitwise the parameters of a run that was never stopped.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from models.embedding import with_no_label

from .. import data
from ..card.page import update_card
from ..processes import any_says, are_several, first_goes_ahead, is_first, meet, one_speaks
from ..run.adaptive import AdaptiveTimes
from ..run.averages import kept, rules
from ..run.build import Run, with_parameters
from ..run.callbacks import Callback, Snapshot, Stop, call, check_callbacks
from ..run.devices import describe
from ..run.endings import End, check_finite, say_how_it_ended, stopping_well
from ..run.environment import environment
from ..run.held_out import held_out_scalars
from ..run.input_clock import InputClock
from ..run.loading import kept_at
from ..run.log import Log, NoLog, open_log
from ..run.losses import make_loss, make_losses
from ..run.messages import Pace, progress, say
from ..run.opening import is_converted, open_run, plain_config, training_note
from ..run.placement import Placement, join_parts, placement, replicated
from ..run.profiling import StepProfile
from ..run.signals import StopSignals
from ..run.step_program import StepProgram
from ..run.watchdog import NoWatchdog, Watchdog
from ..state import TrainState, abstract_state, init_state, make_train_step
from ..storage import pictures
from ..storage.checkpoint import Checkpoints, last_good, latest, restore, template_of
from ..storage.checkpoint_folder import find
from ..storage.lock import locked
from ..storage.saved_config import CONFIG, decisive
from ..storage.snapshots import Snapshots
from ..storage.training_record import TrainingClock, record_data, record_start, seconds_at
from ..storage.workdir import run_directory
from ..storage.writing import write_json
from .sample import draw


def train(
    config: ConfigDict,
    workdir: str | Path,
    callbacks: Sequence[Callback] = (),
    command: str = "",
    profile: int = 0,
) -> None:
    """Train, from the newest checkpoint in `workdir` if there is one.

    Args:
        config: a configuration, such as a file of `experiments/configs` returns.
        workdir: the run directory, made if it is missing.
        callbacks: called with (step, metrics, snapshot) whenever numbers are logged, see
            `callbacks`.
        command: the command line that asks for it, which the model card shows.
        profile: how many steps to trace, into the folder `profile`; 0: none. See `run.profiling`.

    Raises:
        RunError: the loss is no longer finite, a checkpoint cannot be written or read, a callback
            failed, or another process trains there.
    """
    workdir = run_directory(workdir)
    callbacks = check_callbacks(callbacks)
    with one_speaks(), _one_holds_the_lock(workdir):
        _train(config, workdir, callbacks, command, profile)
    if is_first():
        update_card(workdir)


@contextlib.contextmanager
def _one_holds_the_lock(workdir: Path) -> Iterator[None]:
    """Hold the lock of training; of several processes the first does, before the others begin."""
    with locked(workdir, "train") if is_first() else contextlib.nullcontext():
        meet("lock")
        yield


class _Training(NamedTuple):
    """What the loop of training works with."""

    run: Run
    workdir: Path
    place: Placement
    stream: Any  # of batches
    times: AdaptiveTimes
    held_out: Callable[[Any], dict[str, float]] | None  # params -> scalars
    input: InputClock
    callbacks: Sequence[Callback]
    profile: int  # how many steps to trace


def _train(
    config: ConfigDict,
    workdir: Path,
    callbacks: Sequence[Callback],
    command: str,
    profile: int,
) -> None:
    with first_goes_ahead("data"):  # it prepares them
        run, dataset = open_run(config, workdir)
    settings = run.config.train
    place = placement(run.config, settings.batch_size)
    mesh = place.mesh
    stream = data.batches(
        dataset,
        settings.split,
        settings.batch_size,
        seed=run.config.seed,
        train=True,
        flip=settings.flip,
        balance=settings.balance,
        part=(jax.process_index(), jax.process_count()),
    )
    training = _Training(
        run=run,
        workdir=workdir,
        place=place,
        stream=stream,
        times=AdaptiveTimes(run.config.objective, make_losses(run), replicated(mesh)),
        held_out=held_out_scalars(run, dataset, mesh),
        input=InputClock(),
        callbacks=callbacks,
        profile=profile,
    )
    state = _first_state(training)
    start = int(state.step)
    if is_first():
        with stopping_well(workdir):  # only now that all of it has been tried
            write_json(workdir / CONFIG, plain_config(run.config))
            _record(training, dataset, start, command)
    if start >= settings.steps:
        say(f"{workdir} has made its {start} steps; raise --config.train.steps to go on")
        return
    say(f"training on {describe(mesh)}")
    say_how_it_ended(run, workdir, _loop(training, state))


def _record(training: _Training, dataset: data.DataSet, start: int, command: str) -> None:
    """Record for the model card what the data are, and that training starts here if it does."""
    config = training.run.config
    facts = _facts_of(dataset, config)
    if start >= config.train.steps:
        record_data(training.workdir, facts)
        return
    begun = {"step": start, "command": command, **environment(training.place.mesh)}
    record_start(training.workdir, data=facts, start=begun)


def _facts_of(dataset: data.DataSet, config: ConfigDict) -> dict[str, Any]:
    """Return what a model card says of a data set, as plain JSON."""
    splits = (config.train.split, config.train.held_out, config.eval.split)
    return {
        "licence": dataset.licence,
        "origin": dataset.origin,
        "examples": {name: len(dataset.source(name)) for name in splits if name},
    }


def _first_state(training: _Training) -> TrainState:
    """Return the newest checkpoint's state, with stream and times at its place, or a new one."""
    run = training.run
    averages = len(kept(run.config))
    abstract = abstract_state(run.parameters(), run.tx, averages)
    shardings = training.place.state(abstract)
    if latest(training.workdir) is None:
        key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
        drawn = with_parameters(run, training.place.weights(run.split.params))
        return init_state(key, drawn.parameters(), run.tx, averages, shardings)
    stored = kept_at(run, find(training.workdir, None))
    template = template_of(abstract, shardings)
    template = template._replace(averages=template.averages[:stored])
    state, position = restore(training.workdir, template)
    if position is not None:
        training.stream.set_state(training.times.restore(position))
    else:
        # A converted checkpoint has seen none of these data, and perhaps none without a label.
        state = state._replace(params=with_no_label(state.params), ema=with_no_label(state.ema))
        # Nor is it known what its parameters were before: as if they had always been these.
        copies = tuple(jax.tree.map(jnp.copy, state.params) for _ in range(averages))
        state = jax.device_put(state._replace(averages=copies), shardings)
    say(f"going on from step {int(state.step)} of {training.workdir}")
    return state


def _loop(training: _Training, state: TrainState) -> End:
    """Make the steps from `state` on, to the last one or until something asks to stop."""
    run = training.run
    settings = run.config.train
    start = step = int(state.step)
    clock = TrainingClock(seconds_at(training.workdir, start))
    train_step = _step_program(training, state)
    window = []  # the metrics of the steps since they were last logged
    stop, asked = None, ""
    with (
        stopping_well(training.workdir),
        _checkpoints(training) as checkpoints,
        _snapshots(training) as snapshots,
        open_log(training.workdir, start) as log,
        StopSignals() as signals,
        _watched(training) as watchdog,
        StepProfile(training.workdir, start, training.profile) as profile,
        progress(settings.steps, "train", start) as bar,
    ):
        snapshots.save(start, state.averages)  # which a killed run may not have written any more
        pace = Pace(start, settings.steps)
        for step in range(start + 1, settings.steps + 1):
            checkpoints.check()
            with profile.step(step), train_step.explaining_memory():
                batches = [_next_batch(training) for _ in range(settings.accumulate)]
                state, metrics = train_step(state, batches if len(batches) > 1 else batches[0])
                watchdog.beat(step)
                pace.made(step, metrics)
            training.times.update(state, batches[-1], step)
            window.append(metrics)
            asked = _asked_to_stop(training, step, signals)
            ending = step == settings.steps or bool(asked)
            saving = ending or step % settings.checkpoint_every == 0
            held_out = _held_out_at(training, step)
            if saving or held_out or snapshots.due(step) or step % settings.log_every == 0:
                values = check_finite(window, state.params, step, checkpoints)
                if held_out:
                    values |= held_out(state.ema)
                values |= clock.entry() | training.input.entry()
                log.scalars(step, values)
                _show_progress(bar, step, values)
                window = []
                stop = _call_callbacks(training, step, values, state)
            if saving or stop:
                snapshots.wait()
                checkpoints.save(step, state, _position(training))
            if are_several() and snapshots.due(step):
                checkpoints.wait()  # all processes write one thing at a time, in the same order
            snapshots.save(step, state.averages)
            if settings.sample_every and step % settings.sample_every == 0:
                _show_samples(run, state.ema, step, log, training.workdir)
            if ending or stop:
                break
    return End(step=step, stop=stop, asked=asked)


def _step_program(training: _Training, state: TrainState) -> StepProgram:
    """Return the training step, which is compiled when it is first called."""
    run = training.run
    step = make_train_step(
        training.place.gathers(make_loss(run)),
        run.tx,
        run.config.ema,
        run.config.train.accumulate,
        rules(run.config),
        training.place.state(state),
    )
    return StepProgram(step, run.config, begun=int(state.step) > 0)


def _asked_to_stop(training: _Training, step: int, signals: StopSignals) -> str:
    """Return the signal that has come, or "" if there is none.

    Several processes ask one another whenever they log, so that they stop together.
    """
    if are_several() and step % training.run.config.train.log_every:
        return ""
    if not any_says(bool(signals.received)):
        return ""
    return signals.received or "a signal to another process"


def _watched(training: _Training) -> Any:
    """Return the watch over several processes; one that is alone needs none."""
    if not are_several():
        return NoWatchdog()
    return Watchdog(
        training.workdir,
        jax.process_index(),
        training.run.config.train.patience,
        remedy=lambda: (
            f"{last_good(training.workdir)}; start all processes again to go on from there"
        ),
    )


def _held_out_at(training: _Training, step: int) -> Callable[[Any], dict[str, float]] | None:
    """Return the function that measures the held-out loss if it is due at a step, or None."""
    settings = training.run.config.train
    if training.held_out is None:
        return None
    due = step == settings.steps or step % settings.held_out_every == 0
    return training.held_out if due else None


def _call_callbacks(
    training: _Training, step: int, values: dict[str, float], state: TrainState
) -> Stop | None:
    """Call the callbacks with what was logged; return why one of them ends the run, if one does."""
    snapshot = Snapshot(training.workdir, training.run, state)
    return call(training.callbacks, step, values, snapshot)


def _position(training: _Training) -> Any:
    """Return, as JSON, where training is in its data, with the weights of the times."""
    return training.times.keep(training.stream.get_state())


def _checkpoints(training: _Training) -> Checkpoints:
    """Return the checkpoints of a run, open for writing."""
    config = training.run.config
    return Checkpoints(
        training.workdir,
        keep=config.train.keep,
        keep_period=config.train.keep_period,
        config=decisive(plain_config(config)),
    )


def _snapshots(training: _Training) -> Snapshots:
    """Return the snapshots of the averages of a run, open for writing."""
    config = training.run.config
    workdir = training.workdir
    anew = latest(workdir) is None or is_converted(workdir)
    return Snapshots(
        workdir,
        every=config.averages.snapshot_every,
        note=training_note(plain_config(config)) if anew else None,
    )


def _show_progress(bar: tqdm, step: int, values: dict[str, float]) -> None:
    """Move the progress bar to a step and show the loss."""
    bar.update(step - bar.n)
    bar.set_postfix(loss=f"{values['train/loss']:.4f}")


def _next_batch(training: _Training) -> dict:
    """Return the next batch on the devices, with the weights of the times if there are any."""
    with training.input.waiting():
        return training.times.join(join_parts(training.place.mesh, next(training.stream)))


def _show_samples(run: Run, params: Any, step: int, log: Log | NoLog, workdir: Path) -> None:
    """Draw a few samples with the averaged weights, for the eye.

    A picture that fails is reported and costs the run nothing.
    """
    setting = run.config.samplers[run.config.sampling.sampler]
    number = 64 if len(run.facts.shape) == 3 else 1000
    try:
        x, _ = draw(run, run.denoiser(params), setting, np.arange(number))
        picture = pictures.picture(x, run.facts.codec)
        log.picture(step, "samples", picture)
        if is_first():
            pictures.save_png(workdir / "samples" / f"train_{step:07d}.png", picture)
    except Exception as error:  # whatever a sampler or a library of pictures raises
        say(
            f"no picture of samples at step {step} ({type(error).__name__}: {error}); training "
            "goes on"
        )
