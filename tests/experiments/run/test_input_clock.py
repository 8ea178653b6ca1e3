"""The share of the time that training spends on input, on a clock that the test moves."""

import pytest

from experiments.run import input_clock
from experiments.run.input_clock import InputClock


def test_the_share_is_that_since_the_last_entry(monkeypatch):
    now = 0.0
    monkeypatch.setattr(input_clock.time, "perf_counter", lambda: now)
    clock = InputClock()
    for waited, computed in ((1.0, 3.0), (2.0, 2.0)):
        with clock.waiting():
            now += waited
        now += computed
    assert clock.entry() == {"train/input_share": pytest.approx(3 / 8)}
    with clock.waiting():
        now += 0.5
    now += 1.5
    assert clock.entry() == {"train/input_share": pytest.approx(1 / 4)}
