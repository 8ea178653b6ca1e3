"""What training does besides making steps: callbacks, accumulated gradients, and what it says."""

import io
import json
import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import RunError
from experiments.modes import train as training
from experiments.modes.train import train
from experiments.run import held_out, messages
from experiments.run.build import make_dataset
from experiments.run.callbacks import EarlyStopping, Snapshot, StopTraining
from experiments.state import init_state, make_optimizer, make_train_step
from experiments.storage.checkpoint import latest


def short(config, **settings):
    """Set what every run here shares: nothing held out, four steps."""
    config.train.update({"steps": 4, "log_every": 2, "held_out": "", **settings})
    return config


def squares(params, key, batch):
    """A loss that is a mean over examples, and no function of the key."""
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_accumulated_batches_are_one_batch_of_all_their_examples(name):
    """Parameters, average, optimiser, count of steps and metrics, over several updates with a
    schedule that counts updates.
    """
    rng, k, size = np.random.default_rng(0), 4, 8
    tx = make_optimizer(name, lr=0.1, warmup=2, schedule="linear", decay_steps=5, clip=0.5)
    params = {"w": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)}
    steps = {n: make_train_step(squares, tx, 0.9, accumulate=n) for n in (1, k)}
    states = {n: init_state(jax.random.key(0), params, tx) for n in (1, k)}
    for _ in range(4):
        x, y = (rng.standard_normal((k * size, n)).astype(np.float32) for n in (3, 2))
        small = [{"x": x[i::k], "y": y[i::k]} for i in range(k)]
        states[1], whole = steps[1](states[1], {"x": x, "y": y})
        states[k], parts = steps[k](states[k], small)
        np.testing.assert_allclose(whole, parts, rtol=1e-5)
    assert int(states[k].step) == 4
    rounding = {"rtol": 1e-4, "atol": 1e-6}
    whole, parts = (jax.tree.leaves(states[n]._replace(key=0)) for n in (1, k))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, **rounding)
    assert np.abs(states[k].params["w"] - params["w"]).min() > 1e-3


def test_accumulated_batches_have_randomness_of_their_own():
    def loss_of_key(params, key, batch):
        return params["w"] * jax.random.normal(key)

    tx = make_optimizer("sgd", lr=1.0, warmup=0, clip=0.0)
    state = init_state(jax.random.key(7), {"w": jnp.zeros(())}, tx)
    state, _ = make_train_step(loss_of_key, tx, accumulate=3)(state, [jnp.zeros(1)] * 3)
    key = jax.random.fold_in(jax.random.key(7), 0)
    noise = [jax.random.normal(jax.random.fold_in(key, i)) for i in range(3)]
    np.testing.assert_allclose(state.params["w"], -np.mean(noise), rtol=1e-6)


def test_a_wrong_number_of_batches_is_refused():
    tx = make_optimizer()
    state = init_state(jax.random.key(0), {"w": jnp.zeros((3, 2))}, tx)
    batch = {"x": jnp.ones((4, 3)), "y": jnp.ones((4, 2))}
    with pytest.raises(ValueError, match="takes 3 batches, got 2"):
        make_train_step(squares, tx, accumulate=3)(state, [batch] * 2)
    with pytest.raises(ValueError, match="accumulate >= 1, got 0"):
        make_train_step(squares, tx, accumulate=0)


def test_a_run_that_accumulates_counts_updates_reads_on_and_resumes_bitwise(
    tiny_config, tmp_path, state_of
):
    config = short(tiny_config(), accumulate=3, batch_size=8)
    config.objective.update({"adapt_every": 2, "adapt_bins": 4})
    train(config, tmp_path / "whole")
    for steps in (1, 4):
        config.train.steps = steps
        train(config, tmp_path / "parts")
    whole, position = state_of(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, (whole, position), state_of(tmp_path / "parts"))
    assert int(whole.step) == latest(tmp_path / "whole") == 4
    assert position["data"]["next_index"] == 12, "batches read"
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    config.train.accumulate = 2
    with pytest.raises(RunError, match="config.train.accumulate was 3, now 2"):
        train(config, tmp_path / "parts")


def test_callbacks_see_what_is_logged_and_change_nothing(tiny_config, tmp_path, state_of):
    config = short(tiny_config(), held_out="validation", held_out_every=3)
    seen = []

    def look(step, metrics, snapshot):
        assert isinstance(snapshot, Snapshot) and snapshot.workdir == tmp_path / "seen"
        assert int(snapshot.state.step) == step
        estimate = snapshot.denoiser()(jnp.ones((2, 2)), 0.5)
        seen.append({"step": step, **metrics, "finite": bool(jnp.isfinite(estimate.x0).all())})
        metrics.clear()  # of the callback alone

    train(config, tmp_path / "seen", callbacks=[look, look])
    train(config, tmp_path / "plain")
    logged = [
        json.loads(line) for line in (tmp_path / "seen" / "metrics.jsonl").read_text().splitlines()
    ]
    assert seen[::2] == seen[1::2] == [line | {"finite": True} for line in logged]
    assert [line["step"] for line in logged] == [2, 3, 4]
    assert ["held_out/loss" in line for line in logged] == [False, True, True]
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "seen"), state_of(tmp_path / "plain")
    )


def test_a_callback_stops_a_run_with_a_checkpoint_and_the_run_goes_on_bitwise(
    tiny_config, tmp_path, state_of, capsys
):
    def enough(step, metrics, snapshot):
        raise StopTraining("that is enough")

    config = short(tiny_config())
    train(config, tmp_path / "run", callbacks=[enough])
    printed = capsys.readouterr().out
    assert "stopped at step 2 by enough: that is enough; checkpoint saved" in printed
    assert latest(tmp_path / "run") == 2
    train(config, tmp_path / "run")
    train(config, tmp_path / "whole")
    jax.tree.map(
        np.testing.assert_array_equal, state_of(tmp_path / "run"), state_of(tmp_path / "whole")
    )


def test_a_callback_that_fails_costs_no_step(tiny_config, tmp_path):
    class Logger:
        def __call__(self, step, metrics, snapshot):
            raise KeyError("api_key")

    config, called = short(tiny_config()), []
    with pytest.raises(RunError, match=r"callback Logger failed at step 2 \(KeyError: 'api_key'\)"):
        train(config, tmp_path, callbacks=[Logger(), lambda *args: called.append(args[0])])
    assert latest(tmp_path) == 2 and called == [2]


def test_callbacks_that_are_no_list_of_functions_are_refused_at_once(tiny_config, tmp_path):
    for wrong in (print, ["log"]):
        with pytest.raises(ValueError, match="callbacks is a list of functions"):
            train(tiny_config(), tmp_path / "run", callbacks=wrong)
    assert not (tmp_path / "run").exists()


def test_early_stopping_waits_for_as_many_measurements_as_it_is_told():
    name, stopping = "held_out/loss", EarlyStopping(patience=2, min_delta=0.1)
    holding_out = SimpleNamespace(config=SimpleNamespace(train=SimpleNamespace(held_out="test")))
    snapshot = Snapshot(workdir=None, run=holding_out, state=None)
    values = [1.0, None, 0.95, 0.5, 0.45, None, 0.3, 0.25]
    for step, value in enumerate(values):
        stopping(step, {} if value is None else {name: value}, snapshot)
    with pytest.raises(StopTraining, match=f"{name} has not fallen below 0.3 for 2 measurements"):
        stopping(8, {name: 0.29}, snapshot)
    holding_out.config.train.held_out = ""
    for metric in (name, "train/los"):
        with pytest.raises(ValueError, match=f"no number '{metric}' to stop by; there are train/l"):
            EarlyStopping(metric)(1, {"train/loss": 1.0}, snapshot)
    with pytest.raises(ValueError, match="patience >= 1"):
        EarlyStopping(patience=0)


def test_a_picture_that_fails_costs_the_run_nothing(tiny_config, tmp_path, monkeypatch, capsys):
    def broken(*args):
        raise IndexError("5 channels")

    monkeypatch.setattr(training.pictures, "picture", broken)
    config = short(tiny_config(), sample_every=3)
    train(config, tmp_path)
    assert "no picture of samples at step 3 (IndexError: 5 channels)" in capsys.readouterr().out
    assert latest(tmp_path) == 4


def test_a_run_says_what_it_does_and_what_comes_next(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(messages, "TIMED_STEPS", 3)
    workdir = tmp_path / "my run"
    train(short(tiny_config()), workdir)
    lines = capsys.readouterr().out.splitlines()
    first, compiling, needed, compiled, pace, trained, then = lines
    assert first == "training on 1 of 4 cpu devices"
    assert compiling == "compiling the training step ..." and compiled.endswith(" s")
    assert needed.startswith("the step needs ") and needed.endswith("while it computes")
    assert "the 1 steps left take about" in pace
    assert (
        trained.startswith("trained 4 steps")
        and f"metrics.jsonl and tensorboard are in {workdir}" in trained
    )
    assert then == f"next: python -m experiments.main --workdir='{workdir}' --mode=sample"
    train(short(tiny_config()), workdir)
    assert "raise --config.train.steps" in capsys.readouterr().out


def test_held_out_numbers_are_of_the_averaged_weights_and_of_data_as_they_stand(
    tiny_config, tmp_path, monkeypatch
):
    batches, averages = [], []

    def given(run):
        def losses(params, key, batch):
            batches.append(batch["x"])
            return {"loss": jnp.stack([jnp.sum(jax.tree.leaves(params)[0]), 4.0])}

        return losses, np.asarray([0.25, 0.75])

    def look(step, metrics, snapshot):
        first = jax.tree.leaves(snapshot.state.ema)[0]
        averages.append((float(jnp.sum(first)), metrics["held_out/t=0.25"]))
        mean = (metrics["held_out/t=0.25"] + metrics["held_out/t=0.75"]) / 2
        np.testing.assert_allclose(metrics["held_out/loss"], mean, rtol=1e-6)

    monkeypatch.setattr(held_out, "make_held_out", given)
    config = short(tiny_config(), held_out="validation", held_out_every=2)
    train(config, tmp_path, callbacks=[look])
    np.testing.assert_allclose(*np.transpose(averages), rtol=1e-5)
    source = make_dataset(config).source("validation")
    expected = np.stack([source[i]["x"] for i in range(min(len(source), 256))])
    assert len(batches) == 2
    np.testing.assert_array_equal(batches[0], expected)


def test_the_time_that_is_left_is_told_from_the_steps_after_the_first(monkeypatch, capsys):
    """The first step, which compiles, takes 50 s, the others half a second."""
    clock = iter([0.0, 50.0, 50.0, 50.0 + 0.5 * 99])
    monkeypatch.setattr(messages.time, "perf_counter", lambda: next(clock))
    pace = messages.Pace(start=7, total=1007)
    for step in range(8, 200):
        pace.made(step, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "compiled, and the first step made, in 50.0 s"
    assert lines[2].startswith("2 steps/s; the 900 steps left take about 7.5 min, until ")
    assert len(lines) == 3


def test_a_run_trains_in_a_thread(tiny_config, tmp_path):
    """As a notebook's or a server's; signals belong to the main thread."""
    failed = []

    def run():
        try:
            train(short(tiny_config()), tmp_path)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed and latest(tmp_path) == 4


@pytest.mark.parametrize(
    "seconds, text",
    [
        (3, "3 s"),
        (59.4, "59 s"),
        (90, "1.5 min"),
        (3000, "50 min"),
        (9000, "2.5 h"),
        (2e5, "2.3 days"),
    ],
)
def test_a_duration_is_said_as_a_reader_says_it(seconds, text):
    assert messages.duration(seconds) == text


def test_a_progress_bar_in_a_file_is_lines_with_rate_and_time_left(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with messages.progress(8, "train", initial=4) as bar:
        bar.update(2)
        bar.set_postfix(loss="0.5")
        bar.refresh()
    lines = file.getvalue().splitlines()
    assert "\r" not in file.getvalue() and lines[0].startswith("train:  50%, 4 of 8 in 00:00")
    assert lines[-1].startswith("train:  75%, 6 of 8") and "left, " in lines[-1]
    assert "step/s, loss=0.5" in lines[-1]
