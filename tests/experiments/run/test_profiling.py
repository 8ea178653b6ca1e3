"""--profile: the trace is one that Perfetto opens, of the steps that were asked for, and changes nothing."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import RunError
from experiments.modes.train import train
from experiments.run import profiling
from experiments.run.callbacks import StopTraining
from experiments.run.profiling import WARM_UP, StepProfile, newest_trace


def short(config, steps=8, **settings):
    config.train.update({"steps": steps, "log_every": 2, "held_out": "", **settings})
    return config


def events_of(workdir):
    """Return the events of a trace as Perfetto reads them: gzipped JSON."""
    return json.loads(gzip.decompress(newest_trace(workdir / "profile").read_bytes()))[
        "traceEvents"
    ]


def steps_of(events):
    """Return the numbers of the steps in a trace."""
    numbers = (e["args"]["step_num"] for e in events if e.get("name") == "train")
    return sorted(int(number) for number in numbers)


def of_the_step(event):
    """Tell whether an event is an operation of the compiled training step."""
    return event.get("args", {}).get("hlo_module") == "jit_step"


def test_the_steps_after_the_first_ones_are_traced_with_what_the_devices_compute(
    tiny_config, tmp_path, state_of, capsys
):
    train(short(tiny_config()), tmp_path / "traced", profile=3)
    printed = capsys.readouterr().out
    assert f"profile of steps 3 to 5: open {newest_trace(tmp_path)}" in printed
    events = events_of(tmp_path / "traced")
    assert steps_of(events) == [3, 4, 5] and WARM_UP == 2
    spans = [event for event in events if event.get("ph") == "X"]
    assert sum(event["name"] == "next batch" for event in spans) == 3
    operations = [event["name"] for event in spans if of_the_step(event)]
    assert operations and all(operations.count(name) % 3 == 0 for name in operations)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in spans)

    train(short(tiny_config()), tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "traced"), state_of(tmp_path / "plain")
    )


def test_a_run_that_goes_on_is_traced_from_where_it_goes_on(tiny_config, tmp_path, capsys):
    config = short(tiny_config(), steps=4)
    train(config, tmp_path)
    config.train.steps = 9
    train(config, tmp_path, profile=1)
    assert "profile of steps 7 to 7" in capsys.readouterr().out
    assert steps_of(events_of(tmp_path)) == [7]
    train(short(tiny_config(), steps=12), tmp_path, profile=9)
    assert "profile of steps 12 to 12" in capsys.readouterr().out


def test_a_trace_ends_with_its_run(tiny_config, tmp_path, capsys):
    """Also with one that fails: a second trace could not be begun in this process otherwise."""
    train(short(tiny_config(), steps=2), tmp_path / "short", profile=4)
    assert "no profile: it begins with step 3" in capsys.readouterr().out
    config = short(tiny_config(), log_every=4)
    train(config, tmp_path / "stopped", profile=100, callbacks=[stops])
    assert "profile of steps 3 to 4" in capsys.readouterr().out
    with pytest.raises(RunError, match="fails failed at step 4"):
        train(config, tmp_path / "failed", profile=100, callbacks=[fails])
    config.optim.update({"lr": 1e30, "warmup": 0, "clip": 0.0})
    with pytest.raises(RunError, match="no longer finite"):
        train(config, tmp_path / "broken", profile=100)
    assert steps_of(events_of(tmp_path / "broken")) == [3, 4]


def test_a_trace_ends_only_when_the_devices_have_done_the_last_step(tmp_path, monkeypatch):
    def slow(x):
        return jax.lax.fori_loop(0, 300, lambda _, x: jnp.tanh(x @ x), x)

    monkeypatch.setattr(profiling, "start_trace", lambda folder: None)
    monkeypatch.setattr(profiling, "newest_trace", lambda folder: folder)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: ready.append(result.is_ready()))
    slow, x, ready = jax.jit(slow), jnp.ones((256, 256)), []
    slow(x).block_until_ready()
    with StepProfile(tmp_path, 0, 1) as profile:
        for number in range(1, 4):
            with profile.step(number):
                result = slow(x)
    assert ready == [True]


def stops(step, metrics, snapshot):
    raise StopTraining("enough")


def fails(step, metrics, snapshot):
    raise KeyError(step)


def test_the_log_has_the_share_of_the_time_that_is_spent_on_input(tiny_config, tmp_path):
    train(short(tiny_config()), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(0 < line["train/input_share"] < 1 for line in lines)


def test_the_command_line_asks_for_a_profile(in_process, tiny_flags, tmp_path):
    flags = [*tiny_flags, "--config.train.steps=6", f"--workdir={tmp_path}/run"]
    result = in_process(*flags, "--profile=2")
    assert result.code == 0 and "profile of steps 3 to 4" in result.out, result.err
    start = json.loads((tmp_path / "run" / "training.json").read_text())["starts"][0]
    assert "--profile=2" in start["command"]
