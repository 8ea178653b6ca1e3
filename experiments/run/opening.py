"""Opening a run directory for training: a new one, or one that training goes on in."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from .. import data
from ..command.resolve import DECIDED, REPLACED
from ..errors import RunError
from ..storage.checkpoint import latest
from ..storage.identity import code_version, digest
from ..storage.reading import read_object
from ..storage.saved_config import CONFIG, check_belongs, differences, read_config
from .build import Run, build, make_dataset, measure_facts
from .check import check_data, check_devices, check_run, check_settings

# Sections that may change between two starts of a run; the rest decides what the parameters become.
FREE = (*REPLACED, "samplers")
FREE_TRAIN = (
    "steps",
    "log_every",
    "held_out_every",
    "sample_every",
    "checkpoint_every",
    "keep",
    "keep_period",
    "patience",
)

CONVERTED = "converted.json"  # beside a checkpoint that experiments.convert made: its step


def open_run(config: ConfigDict, workdir: Path) -> tuple[Run, data.DataSet]:
    """Measure the data, build the objects and check them all; write nothing.

    So a command that is refused leaves no folder behind. The parameters are shapes without numbers.

    Raises:
        RunError: `workdir` holds a run of another configuration, or a config.json that is not of a
            run.
        ValueError: a setting or the data cannot be used.
    """
    check_settings(config)
    dataset = make_dataset(config)
    run = build(config, measure_facts(config, dataset), abstract=True)
    check_run(run)
    check_data(run, dataset, training=True)
    check_devices(run)
    _check_goes_on(run, workdir)
    return run, dataset


def _check_goes_on(run: Run, workdir: Path) -> None:
    """Raise a RunError if a run directory holds something that this run cannot go on from."""
    saved = workdir / CONFIG
    started = latest(workdir) is not None
    if saved.exists() and not started:
        _check_is_ours(saved)
    if saved.exists() and started:
        before = json.loads(read_config(workdir).to_json_best_effort())
        decisive = _decisive_when_converted if is_converted(workdir) else _decisive
        if changes := differences(decisive(before), decisive(plain_config(run.config))):
            raise RunError(
                f"{workdir} holds a run of another configuration ({'; '.join(changes[:5])}); "
                "name another --workdir, or give that configuration to go on with it"
            )
    if started:
        check_belongs(workdir, run.config, sections=DECIDED if is_converted(workdir) else None)


def is_converted(workdir: Path) -> bool:
    """Tell whether the newest checkpoint is one of experiments.convert, without training after it.

    Raises:
        RunError: the note that says so is damaged.
    """
    note = workdir / CONVERTED
    if not note.exists():
        return False
    remedy = "write into it the step of the converted checkpoint, or remove it if training went on"
    step = read_object(note, remedy).get("step")
    if not isinstance(step, int):
        raise RunError(f'{note} is damaged: it should hold {{"step": number}}; {remedy}')
    return step == latest(workdir)


def _check_is_ours(path: Path) -> None:
    """Raise a RunError if a config.json is not that of a run, but somebody else's."""
    content = read_object(path, "move it away, or name another --workdir")
    if not content.keys() >= {"sde", "net", "denoiser", "train"}:
        raise RunError(f"{path} is not the configuration of a run; name another --workdir")


def plain_config(config: ConfigDict) -> dict[str, Any]:
    """Return a configuration as plain JSON."""
    return json.loads(config.to_json_best_effort())


def training_note(config: dict[str, Any]) -> dict[str, Any]:
    """Return what identifies the parameters that training with a configuration arrives at."""
    return {
        "training": digest(json.dumps(_decisive(config), sort_keys=True).encode()),
        "code": code_version(),
    }


def _decisive(config: dict) -> dict:
    """Return the part of a configuration that decides what the parameters become."""
    part = {k: v for k, v in config.items() if k not in FREE}
    part["train"] = {k: v for k, v in config["train"].items() if k not in FREE_TRAIN}
    return part


def _decisive_when_converted(config: dict) -> dict:
    """Return the part of a configuration that the weights of a converted checkpoint belong to."""
    return {section: config[section] for section in DECIDED}
