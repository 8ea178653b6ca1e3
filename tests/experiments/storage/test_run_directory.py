"""What a run directory may be called, who may write it, and what is left alone in it."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.errors import RunError
from experiments.run import compile_cache
from experiments.run.devices import make_mesh
from experiments.run.log import Log
from experiments.run.placement import replicated
from experiments.storage import checkpoint, writing
from experiments.storage.checkpoint import Checkpoints, latest, restore, template_of
from experiments.storage.lock import locked
from experiments.storage.workdir import check_plain_name, run_directory
from experiments.storage.writing import clear_leftovers, write_bytes, write_json

ROOT = Path(__file__).parents[3]
STATE = {"w": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(7)}


def template():
    return template_of(STATE, replicated(make_mesh(1, 1)))


def contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    "name",
    [
        "[1]",
        "a*b?",
        "ünï",
        "50%20",
        "{a,b}",
        "back\\slash",
        "x:y",
        "gs:",
        "a b/",
        "~",
        "a/../b",
        "#",
    ],
)
def test_checkpoints_come_back_from_a_folder_of_any_name(tmp_path, name):
    (tmp_path / "a").mkdir()
    workdir = run_directory(f"{tmp_path}/{name}")
    with Checkpoints(workdir, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, step)
    state, position = restore(workdir, template())
    assert (state["w"] == STATE["w"]).all() and position == 2 and latest(workdir) == 2
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["2"]


def test_names_that_are_no_folder_here_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for name, message in (
        ("gs://bucket/run", "no folder of this machine; name a local one"),
        (Path("s3://bucket/run"), "no folder of this machine"),
        ("", "names no folder"),
        (" ", "names no folder"),
        ("a\0b", "names no folder"),
        ("runs/" + "x" * 300, "a name of 300 bytes"),
        ("ü" * 128, "a name of 256 bytes"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(RunError, match=message):
            run_directory(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_directory("~/runs") == tmp_path / "runs"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "name", ["../config", "/tmp/x", "", ".", "..", ".x", "a/b", "a b", "a\n", "x" * 101, None, 5]
)
def test_names_of_results_are_plain(name):
    with pytest.raises(RunError, match="choose a plain name"):
        check_plain_name("it", name)
    assert check_plain_name("it", "fit-5_a.b=2+x") == "fit-5_a.b=2+x"


def test_what_is_not_ours_in_checkpoints_is_left_alone_and_in_no_ones_way(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        checkpoints.save(40, STATE, 40)
    ours = contents(folder / "40")
    for name in ("2024-best", "2024-best/40", "best", "40 (copy)", "40.bak", "²", "041", "-1"):
        (folder / name).mkdir()
        for path, content in ours.items():
            to = folder / name / path.relative_to(folder / "40")
            to.mkdir(exist_ok=True) if content is None else to.write_bytes(content)
    for name in ("40.tar", "notes.txt", "manifest.json"):
        (folder / name).write_text("precious")
    (folder / "last").symlink_to("40")
    foreign = {p: c for p, c in contents(folder).items() if "40" != p.relative_to(folder).parts[0]}
    assert latest(tmp_path) == 40 and restore(tmp_path, template()).position == 40
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(41, STATE, 41)
    assert latest(tmp_path) == 41 and restore(tmp_path, template()).position == 41
    left = {p: c for p, c in contents(folder).items() if "41" != p.relative_to(folder).parts[0]}
    assert left == {p: c for p, c in foreign.items() if p.parts[-1] != "last"} | {
        p: None if not p.is_file() else p.read_bytes() for p in [folder / "last"]
    }


@pytest.mark.parametrize("kind", ["folder", "file", "copy"])
def test_what_has_the_name_of_a_checkpoint_and_is_none_of_ours_is_not_touched(tmp_path, kind):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, STATE, 1)
    other = tmp_path / "checkpoints" / "2024"
    if kind == "file":
        other.write_text("precious")
    else:
        other.mkdir()
        (other / "mine").write_text("precious")
    if kind == "copy":  # of another step, under a name that is not its own
        for name in ("manifest.json", "checkpoint.json"):
            (other / name).write_bytes((tmp_path / "checkpoints" / "1" / name).read_bytes())
    assert latest(tmp_path) == 1 and restore(tmp_path, template()).position == 1
    before = contents(tmp_path / "checkpoints")
    with pytest.raises(RunError, match="2024 has the name of a checkpoint.*rename it"):
        Checkpoints(tmp_path)
    assert contents(tmp_path / "checkpoints") == before


def test_a_checkpoint_that_could_not_be_written_is_noticed_without_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "hashes", lambda folder: 1 / 0)
    with pytest.raises(RunError, match="could not write checkpoint 1"):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.check()  # nothing is pending yet
            checkpoints.save(1, STATE, 1)
            while not checkpoints._pending.done():
                time.sleep(0.01)
            with pytest.raises(RunError, match="could not write checkpoint 1"):
                checkpoints.check()
            checkpoints.save(1, STATE, 1)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_lock_holds_off_a_second_process_and_names_the_first(tmp_path):
    workdir = tmp_path / "a" / "run"
    with locked(workdir, "train"):
        with pytest.raises(RunError, match=rf"process {os.getpid()} on .*runs 'train' there"):
            with locked(workdir, "train"):
                raise AssertionError
        with locked(workdir, "sample ddim"):  # another job
            pass
    assert not (tmp_path / "a").exists()  # nothing was written
    with locked(workdir, "train"):
        (workdir / "file").write_text("")
    assert [p.name for p in workdir.iterdir()] == ["file"]


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom experiments.storage.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), 'train'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {holder.pid} on"):
            with locked(tmp_path, "train"):
                pass
        holder.kill()
    assert (tmp_path / ".train.lock").exists()
    with locked(tmp_path, "train"):
        assert json.loads((tmp_path / ".train.lock").read_text())["pid"] == os.getpid()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_starting_ends_at_once_with_one_line(number):
    config = "--config=experiments/configs/toy.py"
    flags = [sys.executable, "-X", "importtime", "-m", "experiments.main", config, "--dry_run"]
    with subprocess.Popen(flags, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:  # until the imports have begun that take seconds
            if "jax._src" in line:
                break
        process.send_signal(number)
        lines = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 128 + number
    assert "".join(lines).strip().startswith(f"stopped by {number.name}; what was finished is kept")
    assert len("".join(lines).strip().splitlines()) == 1


def test_the_log_is_not_written_at_a_start_that_drops_nothing(tmp_path, monkeypatch):
    with Log(tmp_path, 0) as log:
        for step in (1, 2):
            log.scalars(step, {"a": float("nan"), "b": float(step)})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    assert [json.loads(line, parse_constant=pytest.fail)["a"] for line in whole.splitlines()] == [
        None,
        None,
    ]

    def full(*arguments):
        raise OSError(28, "no space")

    monkeypatch.setattr("os.replace", full)
    with Log(tmp_path, 2):
        pass
    with pytest.raises(OSError, match="no space"):
        Log(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    "line", ["5", "null", "[]", "{}", '{"step": "x"}', "torn", "\udcff", "[" * 9999]
)
def test_a_log_with_lines_that_are_not_ours_goes_on_without_them_and_keeps_them(
    tmp_path, capsys, line
):
    file = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n' + line.encode(errors="surrogateescape") + b'\n{"step": 2}\n{"ste'
    file.write_bytes(content)
    with Log(tmp_path, 2) as log:
        log.scalars(3, {})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]
    assert f"line 2 of {file} is not one of ours" in capsys.readouterr().err
    (aside,) = tmp_path.glob("metrics.damaged-*.jsonl")
    assert aside.read_bytes() == content


def test_files_are_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    whole = path.read_text()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match=r"full: .*x\.json"):
            write_bytes(path, b"other")
    assert path.read_text() == whole and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_only_old_leftovers_of_ours_are_cleared(tmp_path):
    ours = [".a.json.12.unfinished", ".batch_0000000.npz.12"]
    others = [".hidden.12", "a.12.unfinished", ".batch_1.npz.12", ".x.unfinished"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    clear_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    for name in (*ours, *others):
        os.utime(tmp_path / name, (1, 1))
    clear_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
    assert writing._OLD >= 60  # no process takes so long for one file


def test_torn_entries_of_the_compilation_cache_are_removed(tmp_path):
    whole = zlib.compress(b"program" * 99)
    for name, content in {
        "whole-cache": whole,
        "torn-cache": whole[:-3],
        "empty-cache": b"",
        "unknown-cache": b"other",
        "notes.txt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    compile_cache.remove_torn(tmp_path)
    left = {"whole-cache", "unknown-cache", "notes.txt", ".checked"}
    assert {p.name for p in tmp_path.iterdir()} == left
    (tmp_path / "later-cache").write_bytes(whole[:9])
    compile_cache.remove_torn(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == left
    compile_cache.remove_torn(tmp_path / "nowhere")


@pytest.mark.skipif(jax.config.jax_compilation_cache_dir is None, reason="no cache here")
def test_entries_of_this_jax_are_known_as_whole():
    entries = sorted(Path(jax.config.jax_compilation_cache_dir).glob("*-cache"))[:5]
    assert not any(compile_cache._is_torn(entry.read_bytes()) for entry in entries)
    assert all(compile_cache._is_torn(entry.read_bytes()[:-20]) for entry in entries)
