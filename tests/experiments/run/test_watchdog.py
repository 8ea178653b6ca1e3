"""The watch over processes that train together: whom it names, when it ends, and that it is silent
while steps are made.
"""

import json
import re
import time

import pytest

from experiments.run import watchdog
from experiments.run.watchdog import Beat, NoWatchdog, Watchdog, read_beats


class Watched:
    """A process 0 whose watchdog ends into a list."""

    def __init__(self, workdir, patience):
        self.messages = []
        self.watch = Watchdog(workdir, 0, patience, lambda: "the remedy", self.messages.append)

    def wait(self, seconds):
        end = time.time() + seconds
        while time.time() < end and not self.messages:
            time.sleep(0.01)
        return self.messages


def others(workdir, **said):
    """Write what other processes said last: name = (number, step, seconds ago)."""
    folder = workdir / watchdog.FOLDER
    folder.mkdir(exist_ok=True)
    for where, (number, step, ago) in said.items():
        then = time.time() - ago
        text = json.dumps(Beat(step, then, then, where)._asdict())
        (folder / f"{number}.json").write_text(text)


def test_it_ends_when_no_step_was_made_for_its_patience_and_not_before(tmp_path):
    watched = Watched(tmp_path, patience=2.0)
    with watched.watch as watch:
        for step in range(15):  # three seconds of steps
            watch.beat(step)
            time.sleep(0.2)
        assert not watched.messages
        (message,) = watched.wait(20)
    assert re.match(r"no step was made for \d+ s after step 14: all 1 processes wait", message)
    assert message.endswith("; the remedy")


def test_nothing_is_watched_before_the_first_step(tmp_path):
    watched = Watched(tmp_path, patience=0.1)
    with watched.watch:
        assert not watched.wait(0.6)


def test_a_silent_process_is_named_and_ends_the_wait_early(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "SILENCE", 0.3)
    others(tmp_path, dead=(2, 41, 50.0), alive=(1, 42, 0.0))
    watched = Watched(tmp_path, patience=20.0)
    with watched.watch as watch:
        watch.beat(42)
        others(tmp_path, alive=(1, 42, -60.0))
        (message,) = watched.wait(15)
    assert "process 2 (dead) has said nothing for 5" in message
    assert message.partition(": ")[2].startswith("process 2 (dead)") and "at step 41" in message


def test_a_process_that_speaks_but_is_behind_is_named(tmp_path):
    others(tmp_path, slow=(1, 7, -60.0), fast=(2, 8, -60.0))
    watched = Watched(tmp_path, patience=0.3)
    with watched.watch as watch:
        watch.beat(8)
        (message,) = watched.wait(20)
    assert "process 1 (slow) is behind the others, at step 7" in message


def test_a_silent_process_is_named_though_all_are_at_one_step_and_patience_is_short(tmp_path):
    others(tmp_path, stopped=(1, 8, 0.0))
    watched = Watched(tmp_path, patience=0.5)
    with watched.watch as watch:
        watch.beat(8)
        (message,) = watched.wait(20)
    assert "process 1 (stopped) has said nothing for" in message and "at step 8" in message


def test_a_slow_step_is_no_reason_to_end_while_all_speak(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "SILENCE", 0.2)
    others(tmp_path, alive=(1, 5, -60.0))
    watched = Watched(tmp_path, patience=5.0)
    with watched.watch as watch:
        watch.beat(5)
        assert not watched.wait(1.5)


def test_it_leaves_nothing_behind_and_reads_over_damage(tmp_path):
    folder = tmp_path / watchdog.FOLDER
    with Watched(tmp_path, patience=0.2).watch as watch:
        watch.beat(3)
        deadline = time.time() + 5
        while not (folder / "0.json").exists() and time.time() < deadline:
            time.sleep(0.01)
        (folder / "1.json").write_text("{")
        (folder / "2.json").write_text("[1]")
        assert list(read_beats(folder)) == [0] and read_beats(folder)[0].step == 3
    assert not (folder / "0.json").exists()


def test_a_process_that_is_alone_is_not_watched(tmp_path):
    with NoWatchdog() as watch:
        watch.beat(1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("patience", [0.2])
def test_a_folder_that_is_gone_is_no_reason_to_fail(tmp_path, patience):
    watched = Watched(tmp_path, patience)
    with watched.watch as watch:
        (tmp_path / watchdog.FOLDER).rmdir()
        watch.beat(1)
        assert watched.wait(20)
