import json

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.run.log import Log


def events(workdir):
    """Read TensorBoard's files: records of length (8 bytes), checksum (4), data, checksum (4)."""
    events = []
    for file in sorted((workdir / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return events


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_scalars_and_pictures_are_on_disk_at_once(tmp_path):
    with Log(tmp_path, 0) as log:
        log.scalars(5, {"a": 1.5, "b": 2.0})
        log.picture(5, "samples", np.full((4, 6, 3), 7, np.uint8))
        assert lines(tmp_path) == [{"step": 5, "a": 1.5, "b": 2.0}]
        values = {v.tag: v for event in events(tmp_path) for v in event.summary.value}
    assert values["a"].simple_value == 1.5 and values["b"].simple_value == 2
    assert (values["samples"].image.height, values["samples"].image.width) == (4, 6)
    assert {e.step for e in events(tmp_path) if e.summary.value} == {5}


def test_a_resumed_run_drops_what_lies_beyond_its_step(tmp_path):
    with Log(tmp_path, 0) as log:
        for step in (10, 20, 30):
            log.scalars(step, {"a": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "a"')  # cut off by a kill
    with Log(tmp_path, 20) as log:
        assert [line["step"] for line in lines(tmp_path)] == [10, 20]
        log.scalars(30, {"a": 31.0})
    assert [line["a"] for line in lines(tmp_path)] == [10, 20, 31]
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts[-1] == 21  # TensorBoard forgets from there on
