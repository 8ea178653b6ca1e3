"""Averages of a run, kept through kills and rotations, and made afterwards of its snapshots."""

import json
import shutil
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.convert.own import open_exported
from experiments.errors import RunError
from experiments.modes.export import export
from experiments.modes.train import train
from experiments.run.loading import load, restore_state, template_on_one_device
from experiments.run.power_average import Profile, exponent, fit_profile, inner_products
from experiments.storage.checkpoint import Checkpoints, latest, restore
from experiments.storage.checkpoint_folder import weights_config
from experiments.storage.identity import identity
from experiments.storage.snapshots import restore_snapshot, snapshot_steps

STEPS = 46
EVERY = 4
WIDTHS = (0.05, 0.1)


def _config(tiny_config):
    config = tiny_config()
    config.averages.update({"rates": (0.9,), "snapshot_every": EVERY})
    config.train.update(
        {"steps": STEPS, "log_every": 1, "held_out": "", "checkpoint_every": 13, "keep": 1}
    )
    return config


@pytest.fixture
def config(tiny_config):
    return _config(tiny_config)


class Trained(NamedTuple):
    workdir: Any
    history: np.ndarray  # the parameters after each step, float64


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    workdir, history = tmp_path_factory.mktemp("averages") / "run", []

    def look(step, metrics, snapshot):
        history.append(np.asarray(ravel_pytree(snapshot.state.params)[0], np.float64))

    train(_config(tiny_config), workdir, callbacks=[look])
    assert len(history) == STEPS
    return Trained(workdir, np.array(history))


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run.workdir, tmp_path / "copy")


def tracked(history, width, step):
    """The power-function average of a history after so many steps, in float64."""
    ends = (np.arange(step + 1) / step) ** (exponent(width) + 1)
    return np.diff(ends) @ history[:step]


def flat(loaded):
    return np.asarray(ravel_pytree(loaded.denoiser.net.params)[0])


def snapshots(workdir):
    """Everything that the snapshots of a run hold, by step."""
    loaded = load(workdir)
    state = restore_state(loaded.run, workdir)
    template = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state.averages
    )
    return {
        step: jax.tree.map(np.asarray, restore_snapshot(workdir, template, step))
        for step in snapshot_steps(workdir)
    }


def test_snapshots_stay_where_checkpoints_go_and_are_the_explicit_sums(run):
    assert [p.name for p in (run.workdir / "checkpoints").iterdir()] == [str(STEPS)]
    there = snapshots(run.workdir)
    assert list(there) == list(range(EVERY, STEPS, EVERY))
    for step, (_, *averages) in there.items():
        for average, width in zip(averages, WIDTHS, strict=True):
            expected = tracked(run.history, width, step)
            np.testing.assert_allclose(ravel_pytree(average)[0], expected, rtol=0, atol=2e-6)


def test_the_average_of_a_run_is_that_of_ema_unless_it_says_otherwise(run):
    loaded = load(run.workdir)
    state = restore_state(loaded.run, run.workdir)
    assert loaded.average == "the moving average of rate 0.999"
    np.testing.assert_array_equal(flat(loaded), ravel_pytree(state.ema)[0])
    for name in ("ema", "ema=0.999"):
        same = load(run.workdir, average=name)
        assert identity(same) == identity(loaded)
        np.testing.assert_array_equal(flat(same), flat(loaded))
    faster = load(run.workdir, average="ema=0.9")
    assert faster.average == "the moving average of rate 0.9" and faster.step == STEPS
    np.testing.assert_array_equal(flat(faster), ravel_pytree(state.averages[0])[0])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_that_is_kept_is_the_one_of_the_checkpoint(run, width):
    loaded = load(run.workdir, average=f"sigma_rel={width}")
    np.testing.assert_allclose(flat(loaded), tracked(run.history, width, STEPS), atol=2e-6)
    state = restore_state(loaded.run, run.workdir)
    stored = ravel_pytree(state.averages[1 + WIDTHS.index(width)])[0]
    np.testing.assert_allclose(flat(loaded), stored, rtol=0, atol=2e-7)


@pytest.mark.parametrize("width", (0.04, 0.07, 0.13, 0.18))
def test_a_width_made_afterwards_is_the_one_tracked_within_the_error_that_is_told(run, width):
    with pytest.warns(UserWarning, match="off by") if width > 0.15 else nullcontext():
        loaded = load(run.workdir, average=f"sigma_rel={width}")
    steps = [*range(EVERY, STEPS, EVERY), STEPS]
    profiles = [Profile(w, step) for step in steps for w in WIDTHS]
    target = Profile(width, STEPS)
    error = fit_profile(target, profiles).error
    assert loaded.average == (
        f"the power-function average of sigma_rel {width}, made of {len(profiles)} averages at "
        f"{len(steps)} steps; its profile is off by {error:.2g} (relative, L2)"
    )
    expected = tracked(run.history, width, STEPS)
    norm = np.sqrt(inner_products([target], [target]).item())
    bound = error * norm * np.linalg.norm(run.history - run.history[-1], axis=0)
    assert (np.abs(flat(loaded) - expected) <= bound + 5e-6).all()
    # far nearer than what was stored
    others = [tracked(run.history, w, STEPS) for w in WIDTHS]
    nearest = min(np.linalg.norm(other - expected) for other in others)
    assert np.linalg.norm(flat(loaded) - expected) < 0.05 * nearest


def test_the_averages_of_an_earlier_checkpoint_are_made_of_the_snapshots_up_to_it(
    run, config, tmp_path
):
    config.train.update({"keep": 9, "steps": 30})
    train(config, tmp_path / "run")
    assert snapshot_steps(tmp_path / "run")[-1] == 28
    loaded = load(tmp_path / "run", step=26, average="sigma_rel=0.07")
    assert "made of 14 averages at 7 steps" in loaded.average  # 4, 8, ..., 24 and 26
    expected = tracked(run.history, 0.07, 26)
    np.testing.assert_allclose(flat(loaded), expected, rtol=0, atol=1e-4)


def test_each_average_has_its_own_results(run):
    names = ("ema", "ema=0.9", "sigma_rel=0.05", "sigma_rel=0.07")
    weights = {load(run.workdir, average=name).weights for name in names}
    assert len(weights) == len(names)
    assert load(run.workdir, average=names[-1]).weights in weights


@pytest.mark.parametrize("width, off, near", [(0.28, "0.27", 0.133), (0.005, "0.53", 0.0394)])
def test_a_width_out_of_reach_is_refused_with_the_error_and_what_can_be_reached(
    run, width, off, near
):
    with pytest.raises(
        RunError,
        match=rf"sigma_rel={width}, but the profile .* up to step 46 make is off by {off} of its "
        rf"norm; the nearest width that they make within 0.01 is {near}, and a smaller",
    ):
        load(run.workdir, average=f"sigma_rel={width}")
    profiles = [Profile(w, s) for s in [*range(EVERY, STEPS, EVERY), STEPS] for w in WIDTHS]
    beyond = near + 0.05 * (width - near)
    assert fit_profile(Profile(near, STEPS), profiles).error <= 0.0101
    assert fit_profile(Profile(beyond, STEPS), profiles).error > 0.0101


def test_what_is_missing_is_told_by_the_error(copy):
    for step in range(EVERY, STEPS, EVERY):
        shutil.rmtree(copy / "snapshots" / "checkpoints" / str(step))
    with pytest.raises(RunError, match=r"off by 0.2\d* of its norm; the nearest width"):
        load(copy, average="sigma_rel=0.15")
    assert "at 1 steps" in load(copy, average="sigma_rel=0.05").average


def test_a_damaged_snapshot_is_refused(copy):
    folder = copy / "snapshots" / "checkpoints" / "8"
    file = max(folder.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="snapshots/checkpoints/8 is damaged"):
        load(copy, average="sigma_rel=0.07")
    load(copy)


def test_a_run_that_was_killed_has_the_snapshots_of_one_never_stopped(
    start, tiny_flags, tmp_path_factory
):
    flags = [
        *tiny_flags,
        "--config.train.steps=60",
        "--config.train.checkpoint_every=7",
        "--config.train.log_every=1",
        f"--config.averages.snapshot_every={EVERY}",
        "--config.averages.rates=0.9",
        "--config.devices=1",
    ]
    folder = tmp_path_factory.mktemp("killed")
    whole, killed = folder / "whole", folder / "killed"
    assert start(*flags, f"--workdir={whole}").finish().code == 0
    for number in (1, 5):
        command = start(*flags, f"--workdir={killed}")
        while command.process.is_alive() and len(snapshot_steps(killed)) < number:
            command.process.join(0.01)
        command.process.kill()
        assert command.finish().code == -9
    assert start(*flags, f"--workdir={killed}").finish().code == 0
    _same_snapshots(whole, killed, list(range(EVERY, 61, EVERY)))


def _same_snapshots(left, right, steps):
    there, expected = snapshots(right), snapshots(left)
    assert list(there) == list(expected) == steps
    jax.tree.map(np.testing.assert_array_equal, there, expected)
    states = [restore_state(load(workdir).run, workdir) for workdir in (left, right)]
    assert len(states[0].averages) == 3
    jax.tree.map(np.testing.assert_array_equal, states[0].averages, states[1].averages)


@pytest.mark.parametrize("stop", (12, 14))
def test_a_snapshot_that_a_kill_took_away_is_made_up_for(run, config, tmp_path, stop):
    """At step 12 checkpoint and snapshot fall together, and the checkpoint may be the first there."""
    workdir = tmp_path / "run"
    config.train.steps = stop
    train(config, workdir)
    if stop % EVERY == 0:
        shutil.rmtree(workdir / "snapshots" / "checkpoints" / str(stop))
    config.train.steps = STEPS
    train(config, workdir)
    _same_snapshots(run.workdir, workdir, list(range(EVERY, STEPS, EVERY)))


def test_a_checkpoint_is_written_only_after_the_snapshots_before_it(config, tmp_path, monkeypatch):
    """So that no kill between the two leaves a gap that going on from the checkpoint cannot fill."""
    workdir, seen, save = tmp_path / "run", {}, Checkpoints.save

    def look(self, step, state, position):
        if self.directory.parent == workdir:
            seen[step] = snapshot_steps(workdir)
        save(self, step, state, position)

    monkeypatch.setattr(Checkpoints, "save", look)
    config.train.update({"steps": 14, "checkpoint_every": 5})
    train(config, workdir)
    assert seen == {5: [4], 10: [4, 8], 14: [4, 8, 12]}


def test_snapshots_of_another_training_are_moved_aside(copy, config):
    shutil.rmtree(copy / "checkpoints")
    config.seed = 5
    config.train.steps = 9
    train(config, copy)
    assert snapshot_steps(copy) == [4, 8]
    assert (copy / "snapshots.1" / "checkpoints" / "44").is_dir()


def test_other_averages_are_another_run(copy, config):
    config.averages.rates = (0.8,)
    with pytest.raises(RunError, match=r"another configuration \(config.averages.rates was"):
        train(config, copy)


def test_the_average_to_use_may_change_at_any_time(copy, config):
    config.average = "sigma_rel=0.07"
    config.train.steps = STEPS + 1
    train(config, copy)
    assert "of sigma_rel 0.07, made of 24 averages at 12 steps" in load(copy).average
    assert load(copy, average="ema").average == "the moving average of rate 0.999"


class StateOfBefore(NamedTuple):
    """The training state as it was before a run could keep several averages."""

    step: Any
    params: Any
    ema: Any
    opt: Any
    key: Any


def test_a_run_of_before_opens_and_goes_on_to_the_bit(trained, tiny_config, tmp_path, state_of):
    """Its checkpoint was written from another tuple, its config.json knows nothing of averages."""
    loaded, before = load(trained, 10), tmp_path / "before"
    template = template_on_one_device(loaded.run.parameters(), loaded.run.tx)
    state, position = restore(trained, template, 10)
    config = weights_config(trained / "checkpoints" / "10")
    with Checkpoints(before, config=config) as checkpoints:
        checkpoints.save(10, StateOfBefore(*state[:5]), position)
    saved = json.loads((trained / "config.json").read_text())
    for name in ("average", "averages"):
        del saved[name]
    (before / "config.json").write_text(json.dumps(saved))
    np.testing.assert_array_equal(flat(load(before)), flat(loaded))
    assert load(before).average == loaded.average == "the moving average of rate 0.999"
    train(tiny_config(), before)
    (went_on, place), (expected, other) = state_of(before, 20), state_of(trained, 20)
    assert place == other and latest(before) == 20
    jax.tree.map(np.testing.assert_array_equal, went_on, expected)
    assert not (before / "snapshots").exists()


def test_an_exported_average_stands_alone(copy, config, monkeypatch, tmp_path):
    loaded = load(copy, average="sigma_rel=0.07")
    export(loaded, copy)
    exported = load(copy / "export.zip")
    np.testing.assert_array_equal(flat(exported), flat(loaded))
    assert exported.average == "the average sigma_rel=0.07 of an exported run"
    load(copy / "export.zip", average="sigma_rel=0.07")
    with pytest.raises(RunError, match="holds the average sigma_rel=0.07 and no others, not ema"):
        load(copy / "export.zip", average="ema")
    other = tmp_path / "other"
    open_exported(copy / "export.zip", other)
    np.testing.assert_array_equal(flat(load(other)), flat(loaded))
    with pytest.raises(RunError, match="was converted and holds a single average"):
        load(other, average="sigma_rel=0.07")
    # and training goes on from it, as if the parameters had always been these
    config.train.steps = STEPS + 4
    history = [flat(loaded)] * STEPS
    train(
        config,
        other,
        callbacks=[
            lambda step, metrics, snapshot: history.append(
                np.asarray(ravel_pytree(snapshot.state.params)[0])
            )
        ],
    )
    state = restore_state(load(other).run, other)
    expected = tracked(np.array(history, np.float64), 0.1, STEPS + 4)
    np.testing.assert_allclose(ravel_pytree(state.averages[2])[0], expected, rtol=0, atol=2e-6)


def test_every_mode_says_which_average_it_works_with(copy, in_process):
    said = in_process("--mode=sample", f"--workdir={copy}", "--config.average=sigma_rel=0.07")
    assert said.code == 0, said.err
    assert "weights of step 46: the power-function average of sigma_rel 0.07, made of" in said.out
    said = in_process("--mode=sample", f"--workdir={copy}")
    assert "weights of step 46: the moving average of rate 0.999" in said.out
    said = in_process("--mode=export", f"--workdir={copy}", "--config.average=ema=0.7")
    assert said.code == 1 and "this run keeps the rates 0.999, 0.9; choose" in said.err
    said = in_process("--mode=sample", f"--workdir={copy}", "--config.averages.rates=0.7")
    assert said.code == 1 and "has no effect on --mode=sample" in said.err


def test_the_card_names_the_averages(run):
    card = (run.workdir / "card.md").read_text()
    assert "0.999; beside it ema=0.9, sigma_rel=0.05, sigma_rel=0.1" in card
