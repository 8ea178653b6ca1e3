"""Runs that are stopped in every way end in bitwise what a run never stopped ends in."""

import json
import shutil
import time

import jax
import numpy as np
import pytest

from experiments.errors import RunError
from experiments.modes.train import train
from experiments.run.build import build
from experiments.run.loading import load
from experiments.storage.checkpoint import latest

STEPS = 150
LONG = [
    f"--config.train.steps={STEPS}",
    "--config.train.log_every=1",
    "--config.train.checkpoint_every=7",
]


@pytest.fixture(scope="session")
def flags(tiny_flags):
    return [*tiny_flags, *LONG]


@pytest.fixture(scope="session")
def never_stopped(command, flags, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("never") / "run"
    result = command(*flags, f"--workdir={workdir}")
    assert result.code == 0, result.err
    return workdir


@pytest.fixture
def same_as_never_stopped(never_stopped, state_of):
    def check(workdir, message):
        (state, position) = state_of(workdir)
        (expected, expected_position) = state_of(never_stopped)
        assert position == expected_position, message
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a, b, message, strict=True), state, expected
        )
        assert steps_logged(workdir) == list(range(1, STEPS + 1)), message

    return check


def steps_logged(workdir):
    file = workdir / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
        if file.exists()
        else []
    )
    return [line["step"] for line in lines if "train/loss" in line]


def wait_for(step, workdir, process):
    """Wait until a run has logged a step."""
    while process.is_alive() and (steps_logged(workdir) or [0])[-1] < step:
        time.sleep(0.01)
    assert process.is_alive(), f"ended before step {step}"


def test_a_run_killed_at_random_steps_ends_bitwise_like_one_never_stopped(
    start, flags, tmp_path, same_as_never_stopped
):
    workdir = tmp_path / "run"
    at = sorted(np.random.default_rng().choice(np.arange(10, STEPS - 20), 2, replace=False))
    for step in at:
        run = start(*flags, f"--workdir={workdir}")
        wait_for(step, workdir, run.process)
        run.process.kill()
        assert run.finish().code == -9
    result = start(*flags, f"--workdir={workdir}").finish()
    assert result.code == 0, result.err
    same_as_never_stopped(workdir, f"killed at steps {at}")


def test_a_run_that_is_asked_to_stop_saves_exits_well_and_goes_on_bitwise(
    start, flags, tmp_path, same_as_never_stopped
):
    workdir = tmp_path / "run"
    run = start(*flags, f"--workdir={workdir}")
    wait_for(30, workdir, run.process)
    run.process.terminate()
    result = run.finish()
    assert result.code == 0, result.err
    stopped = steps_logged(workdir)[-1]
    assert 30 <= latest(workdir) == stopped < STEPS
    assert f"stopped at step {stopped} by SIGTERM; checkpoint saved" in result.out
    assert start(*flags, f"--workdir={workdir}").finish().code == 0
    same_as_never_stopped(workdir, f"stopped at step {stopped}")


def test_a_kill_while_a_checkpoint_is_written_goes_back_to_the_one_before(
    command, flags, never_stopped, tmp_path, same_as_never_stopped
):
    workdir = shutil.copytree(never_stopped, tmp_path / "run")
    newest = workdir / "checkpoints" / str(STEPS)
    (newest / "manifest.json").unlink()
    shutil.copytree(newest, newest.with_name(f"{STEPS + 7}.orbax-checkpoint-tmp"))
    assert latest(workdir) == STEPS // 7 * 7
    result = command(*flags, f"--workdir={workdir}")
    assert result.code == 0, result.err
    same_as_never_stopped(workdir, "without its last checkpoint")
    assert sorted(p.name for p in newest.parent.iterdir()) == [str(STEPS // 7 * 7), str(STEPS)]


def test_more_steps_go_on_and_none_left_changes_nothing(trained, tiny_config, capsys):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    train(tiny_config(), trained)
    assert "has made its 20 steps; raise --config.train.steps" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before
    config = tiny_config()
    config.train.steps = 23
    train(config, trained)
    assert latest(trained) == 23


def test_a_full_disk_names_the_last_good_checkpoint_and_costs_nothing_more(
    command, tiny_flags, tmp_path
):
    """A limit on the size of files stands in for the disk: only the checkpoint exceeds the first,
    already the log the second.
    """
    workdir = tmp_path / "run"
    flags = [
        *tiny_flags,
        "--config.net.width=64",
        "--config.train.log_every=1",
        f"--workdir={workdir}",
    ]
    assert command(*flags).code == 0
    saved = {p: p.read_bytes() for p in (workdir / "checkpoints" / "20").rglob("*") if p.is_file()}
    log = max((workdir / name).stat().st_size for name in ("metrics.jsonl", "config.json"))
    for limit, what in (
        (max(map(len, saved.values())) // 2, "could not write checkpoint 30"),
        (log + 99, "training stopped"),
    ):
        result = command(*flags, "--config.train.steps=60", limit=limit)
        assert (
            result.code == 1 and f"error: {what} (" in result.err and "Traceback" not in result.err
        ), result.err
        assert f"the last good checkpoint is {workdir}/checkpoints/20" in result.err
        assert {
            p: p.read_bytes() for p in (workdir / "checkpoints" / "20").rglob("*") if p.is_file()
        } == saved
        assert load(workdir).step == 20
    result = command(*flags, "--config.train.steps=60")  # room again
    assert result.code == 0 and latest(workdir) == 60, result.err


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_is_not_kept(
    tiny_config, tmp_path, state_of
):
    config = tiny_config()
    config.optim.update({"lr": 1e30, "warmup": 10})
    config.train.update({"checkpoint_every": 1, "keep": 99})
    with pytest.raises(
        RunError,
        match=r"no longer finite from step 2 on \(seen at step 2\); the last good checkpoint is .*/checkpoints/1\. Lower",
    ):
        train(config, tmp_path / "run")
    # whose update the warm-up made null
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]
    state, _ = state_of(tmp_path / "run")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_step_range_is_named_where_steps_are_looked_at_seldom(tiny_config, tmp_path):
    config = tiny_config()
    config.optim.update({"lr": 1e30, "warmup": 10})
    with pytest.raises(
        RunError,
        match=r"no longer finite from step 3 on \(seen at step 5\); no checkpoint was written before",
    ):
        train(config, tmp_path / "run")


def test_another_configuration_is_refused_with_the_differences_and_free_settings_are_not(
    trained, tiny_config
):
    config = tiny_config()
    config.optim.lr, config.net.width, config.seed = 0.5, 16, 3
    with pytest.raises(
        RunError,
        match=r"another configuration \(config.net.width was 8, now 16; config.optim.lr was 0.01, now 0.5; config.seed",
    ):
        train(config, trained)
    config = tiny_config()
    config.train.steps = 22
    config.eval.rtol = 0.5
    config.sampling.number = 3
    config.train.log_every = 1
    train(config, trained)
    saved = json.loads((trained / "config.json").read_text())
    assert latest(trained) == 22 and saved["eval"]["rtol"] == 0.5 and saved["train"]["steps"] == 22


def test_a_run_that_has_saved_nothing_may_be_configured_anew(tiny_config, tiny_run, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads(build(tiny_run.config).config.to_json_best_effort()) | {"seed": 17})
    )
    config = tiny_config()
    config.train.steps = 1
    train(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0
