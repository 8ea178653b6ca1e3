"""Two processes of two devices each, joined over the loopback interface, train one run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.run.loading import load
from experiments.storage.checkpoint_folder import complete_steps

ROOT = Path(__file__).parents[3]
LIMIT = 240  # seconds until a process is given up
PATIENCE = 5  # seconds without a step


def start(flags, workdir, steps, logs, **settings):
    """Start two processes that train to a step; return them with the files of what they say."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {"net.width": 48, "optim.lr": 1e-3, "train.steps": steps, **settings}
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    if cache := jax.config.jax_compilation_cache_dir:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
    started = []
    for number in range(2):
        group = [f"--coordinator={address}", "--processes=2", f"--process={number}"]
        command = [sys.executable, "-m", "experiments.main", *flags, f"--workdir={workdir}"]
        with open(logs / f"{workdir.name}_{steps}_{number}.txt", "w") as said:
            started.append(
                subprocess.Popen(
                    [*command, *arguments, *group],
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    cwd=ROOT,
                    env=environment,
                )
            )
    return started, [logs / f"{workdir.name}_{steps}_{number}.txt" for number in range(2)]


def finish(flags, workdir, steps, logs, **settings):
    """Train to a step in two processes; return what each says."""
    processes, said = start(flags, workdir, steps, logs, **settings)
    codes = [process.wait(LIMIT) for process in processes]
    texts = [path.read_text() for path in said]
    assert codes == [0, 0], texts
    return texts


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: (line["train/loss"], line["train/grad_norm"]) for line in lines}


def alone(flags, workdir, command, **settings):
    """Train to step 20 in one process of one device."""
    settings = {"net.width": 48, "optim.lr": 1e-3, "devices": 1, **settings}
    given = [f"--config.{name}={value}" for name, value in settings.items()]
    finished = command(*flags, f"--workdir={workdir}", *given)
    assert finished.code == 0, finished.err


@pytest.fixture(scope="module")
def expected(tiny_flags, tmp_path_factory, command):
    """Return the directory of the run that one process trained on one device."""
    workdir = tmp_path_factory.mktemp("expected") / "run"
    alone(tiny_flags, workdir, command)
    return workdir


def test_two_processes_train_what_one_does_and_one_goes_on(expected, tiny_flags, tmp_path, command):
    run = tmp_path / "run"
    first, second = finish(
        tiny_flags, run, 10, tmp_path, **{"placement.fsdp": 4, "train.sample_every": 5}
    )
    assert "training on 4 cpu devices of 2 processes" in first and "trained 10 steps" in first
    assert "train" not in second.replace("Gloo", "")  # one speaks
    assert (run / "samples" / "train_0000010.png").exists()
    assert not (run / ".processes").exists()
    alone(tiny_flags, run, command)
    assert losses(run).keys() == {5, 10, 15, 20}
    np.testing.assert_allclose(
        list(losses(run).values()), list(losses(expected).values()), rtol=2e-4
    )
    for a, b in zip(*(jax.tree.leaves(load(w).denoiser) for w in (run, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_a_stuck_process_ends_the_other_in_time_and_the_run_goes_on_bitwise(tiny_flags, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(tiny_flags, whole, 60, tmp_path)
    processes, said = start(tiny_flags, broken, 100_000, tmp_path, **{"train.patience": PATIENCE})
    try:
        _wait_for(lambda: complete_steps(broken)[-1:] >= [20], processes)
        processes[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert processes[0].wait(LIMIT) == 75
        assert time.monotonic() - began < 60
    finally:
        for process in processes:
            process.kill()
            process.wait()
    message = said[0].read_text()
    assert "no step was made for" in message and "process 1 (" in message
    assert f"the last good checkpoint is {broken}" in message
    _drop_beyond(broken, 60)
    finish(tiny_flags, broken, 60, tmp_path)
    for a, b in zip(*(jax.tree.leaves(load(w).denoiser) for w in (whole, broken)), strict=True):
        np.testing.assert_array_equal(a, b)


def _wait_for(condition, processes):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
        time.sleep(0.05)


def _drop_beyond(workdir, step):
    """Leave only checkpoints before a step, so that there is something left to train."""
    for later in [s for s in complete_steps(workdir) if s >= step]:
        shutil.rmtree(workdir / "checkpoints" / str(later))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=2"], "--coordinator and --process is missing"),
        (["--coordinator=a:1", "--processes=2", "--process=2"], "are not the number of processes"),
        (
            ["--coordinator=a:1", "--processes=two", "--process=0"],
            "are not the number of processes",
        ),
        (["--processes=2", "--mode=sample"], "--mode=sample works in one process"),
    ],
)
def test_processes_that_cannot_be_joined_are_refused(
    flags, message, expected, in_process, tiny_flags
):
    mode = [] if "--mode=sample" in flags else tiny_flags
    finished = in_process(*mode, f"--workdir={expected}", *flags)
    assert finished.code == 1 and message in finished.err
