"""The configuration that a run directory holds, `config.json`, and whose code it may name."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from .configs.common import base_config
from .errors import RunError

CONFIG = "config.json"


def read_saved(workdir: Path, *, trust: bool = False) -> ConfigDict:
    """Return the configuration of a run directory, settings that are newer than it at their defaults.

    Args:
        trust: let it name classes by their path, "package.module:Class". Building such a run imports that module, and importing executes
            it, so that a directory from somebody else could do anything; therefore it has to be asked for.

    Raises:
        RunError: no run directory, or a configuration that cannot be read or names foreign code without `trust`.
    """
    file = Path(workdir) / CONFIG
    if not file.exists():
        raise RunError(
            f"{workdir} is no run directory: it has no config.json. Train one with --mode=train --workdir={workdir}"
        )
    try:
        saved = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(f"cannot read {file}: {error}; bring it back from a copy") from error
    if not isinstance(saved, dict):
        raise RunError(f"{file} holds {saved!r}, not a configuration; bring it back from a copy")
    if not trust:
        refuse_foreign_code(saved, file)
    return with_defaults(saved)


def with_defaults(saved: dict) -> ConfigDict:
    """Return a saved configuration; settings that are newer than it take their defaults."""
    base = base_config()
    for section, defaults in base.items():
        if isinstance(defaults, ConfigDict) and "name" not in defaults and section != "samplers":
            saved[section] = {**json.loads(defaults.to_json()), **saved.get(section, {})}
    if "shape" in saved.get("facts", {}):
        saved["facts"]["shape"] = tuple(saved["facts"]["shape"])
    for section in ("objective", "optim"):  # they have a name, and yet defaults that fit any
        saved[section] = {**json.loads(base[section].to_json()), **saved[section]}
    return ConfigDict(saved)


def refuse_foreign_code(setting: Any, file: Path, path: str = "config") -> None:
    """Raise a RunError if a saved setting names a class by its path, which its user has not allowed to be imported."""
    if isinstance(setting, dict):
        for key, value in setting.items():
            if key == "name" and isinstance(value, str) and ":" in value:
                raise RunError(
                    f"{file} names code that is not part of this package, {path}.name = {value!r}, and opening the run would execute it; "
                    "if you trust that code, add --trust, or load(workdir, trust=True)"
                )
            refuse_foreign_code(value, file, f"{path}.{key}")
    elif isinstance(setting, list):
        for value in setting:
            refuse_foreign_code(value, file, path)
