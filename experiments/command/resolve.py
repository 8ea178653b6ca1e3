"""The configuration of a command.

It is that of a file or of the run directory, with what the command line changes of it. A trained
run keeps what made its parameters. A command line that changes something which its mode does not
read is refused, so that nothing that a user writes is dropped without a word.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ..errors import RunError
from ..modes import MODES
from ..storage.saved import CONFIG, read_saved
from .config_file import read_config_file
from .overrides import apply, value_at
from .parse import Command, Override

# Sections in which what a configuration file says replaces what a run says.
REPLACED = (
    "average",
    "sampling",
    "guidance",
    "inverse",
    "eval",
    "fit",
    "dequantise",
    "devices",
    "placement",
)
# Sections that the weights of a checkpoint belong to.
DECIDED = ("net", "sde", "denoiser")
MISSING = object()


class Resolved(NamedTuple):
    """What a command works with."""

    config: ConfigDict
    notes: tuple[str, ...] = ()  # for the user: what of a file does not hold for this run
    other_data: bool = False  # the data are not those of the run's configuration


def resolve(command: Command, *, converted: bool = False) -> Resolved:
    """Return the configuration of a command.

    Args:
        command: the command line.
        converted: the run is a foreign checkpoint, whose data and training are for the user to
            name.

    Raises:
        RunError: nothing says what to work with, or a setting is given that would have no effect.
    """
    workdir = None if command.workdir is None else Path(command.workdir)
    saved = workdir is not None and (workdir / CONFIG).is_file()
    if command.mode == "train" or (command.dry_run and not saved):
        return _of_training(command, workdir if saved else None)
    if workdir is None:
        raise RunError("name a run directory with --workdir=runs/...")
    run = read_saved(workdir, trust=command.trust)
    return merge(command, run, _from_file(command), converted=converted)


def _of_training(command: Command, workdir: Path | None) -> Resolved:
    """Return the configuration of training: that of the file, or else that of the run directory."""
    config = _from_file(command)
    if config is None and workdir is not None:
        config = copied(read_saved(workdir, trust=command.trust))
        apply(config, command.overrides)
    if config is None:
        raise RunError(
            "--mode=train and --dry_run need --config, such as "
            "--config=experiments/configs/digits.py:vp, or the --workdir of a run to go on with"
        )
    return Resolved(config)


def _from_file(command: Command) -> ConfigDict | None:
    """Return the configuration of the file that a command names, with its changes, or None."""
    if command.config is None:
        return None
    config = read_config_file(command.config)
    apply(config, command.overrides)
    return config


def merge(command: Command, run: ConfigDict, given: Any, *, converted: bool = False) -> Resolved:
    """Return a run's configuration with what a command may change of it.

    Args:
        command: the command line.
        run: the configuration of the run directory.
        given: the configuration of the file that the command names, with its changes, or None.
        converted: see `resolve`.

    Raises:
        RunError: the file is of another network, or a setting is given that would have no effect.
    """
    mode = MODES[command.mode]
    merged = copied(run)
    notes = []
    if given is None:
        given = copied(run)
        apply(given, command.overrides)
    for section in REPLACED:
        merged[section] = given[section]
    for name, setting in given.samplers.items():
        merged.samplers[name] = setting
    other_data = mode.needs_data and bool(contradictions(given.data, run.data, "config.data"))
    if other_data:
        merged.data = given.data
        notes.append(
            f"the data are {_text(given.data)}, where the run was trained on {_text(run.data)}"
        )
    for override in command.overrides:
        _check_effect(override, command, run, given, merged)
        if mode.takes(override.path, merged) and override.path.startswith("train."):
            key = override.path.removeprefix("train.")  # how often numbers are logged and saved
            merged.train[key] = given.train[key]
    for section, setting in given.items():
        if section in (*REPLACED, "samplers", "facts") or (section == "data" and other_data):
            continue
        if changes := contradictions(setting, run[section], f"config.{section}"):
            text = "; ".join(changes[:3])
            if section in DECIDED and not converted:
                raise RunError(
                    f"--config={command.config} is of another network than {command.workdir} "
                    f"({text}); leave --config out to take the run's own"
                )
            if section != "data" or mode.needs_data:
                notes.append(f"the run keeps what it was made with: {text}")
    return Resolved(config=merged, notes=tuple(notes), other_data=other_data)


def copied(config: ConfigDict) -> ConfigDict:
    """Return an unlocked copy that shares no section; ConfigDict(config) would share them all."""
    return config.copy_and_resolve_references().unlock()


def _check_effect(
    override: Override, command: Command, run: ConfigDict, given: ConfigDict, merged: ConfigDict
) -> None:
    """Raise a RunError if a changed setting is one that the mode does not read."""
    path = override.path
    mode = MODES[command.mode]
    section = path.partition(".")[0]
    before = value_at(run, path, MISSING)
    now = value_at(given, path, MISSING)
    if mode.takes(path, merged) or _same(before, now):
        return
    why = f"{override} has no effect on --mode={command.mode}"
    if section == "samplers":
        used = ", ".join(mode.samplers(merged)) or "no sampler"
        name = path.split(".")[1] if "." in path else "..."
        raise RunError(
            f"{why}, which uses {used}; to sample with it use --mode=sample "
            f"--config.sampling.sampler={name}"
        )
    readers = [
        name for name, other in MODES.items() if name != "train" and other.takes(path, merged)
    ]
    if readers:
        raise RunError(f"{why}; it is read by --mode={' and --mode='.join(readers)}")
    was = "is not set" if before is MISSING else f"is {_text(before)}"
    raise RunError(
        f"{why}: the run {command.workdir} was trained with another value (config.{path} {was}); "
        "train a new run with it, or leave it out"
    )


def contradictions(given: Any, run: Any, path: str) -> list[str]:
    """Return, in words, where a file says something else than a run.

    What the file leaves open (None, no such key) is no contradiction.
    """
    if isinstance(given, ConfigDict) and isinstance(run, ConfigDict):
        changes = []
        for key, value in given.items():
            if key in run:
                changes += contradictions(value, run[key], f"{path}.{key}")
        for key, value in given.items():
            if key not in run and value is not None:
                changes.append(f"{path}.{key} is {_text(value)} there, not set here")
        return changes
    if given is None or (path == "config.denoiser.sigma_data" and given == 0) or _same(given, run):
        return []
    return [f"{path} is {_text(given)} there, {_text(run)} here"]


def _same(a: Any, b: Any) -> bool:
    """Compare settings as JSON has them: a tuple is a list, 1 is 1.0."""
    if a is MISSING or b is MISSING:
        return a is b
    return json.loads(_text(a)) == json.loads(_text(b))


def _text(value: Any) -> str:
    """Return a setting as JSON."""
    if isinstance(value, ConfigDict):
        return value.to_json_best_effort()
    return json.dumps(value, default=str)
