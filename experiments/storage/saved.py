"""The configuration that a run directory holds, `config.json`, and whose code it may name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ..errors import RunError
from .saved_config import CONFIG, read_config
from .workdir import run_directory


def read_saved(workdir: Path, *, trust: bool = False) -> ConfigDict:
    """Return the configuration of a run directory.

    Settings that are newer than it have their defaults.

    Args:
        workdir: the run directory.
        trust: let it name classes by their path, "package.module:Class". Building such a run
            imports that module, and importing executes it, so that a directory from somebody else
            could do anything; therefore it is not allowed by default.

    Raises:
        RunError: no run directory, or a configuration that cannot be read or names foreign code
            without `trust`.
    """
    workdir = run_directory(workdir)
    saved = read_config(workdir)
    if not trust:
        refuse_foreign_code(json.loads(saved.to_json_best_effort()), workdir / CONFIG)
    return saved


def refuse_foreign_code(setting: Any, file: Path) -> None:
    """Raise a RunError if a saved setting names a class by its path, which `trust` would allow."""
    for path, name in foreign_names(setting):
        raise RunError(
            f"{file} names code that is not part of this package, {path} = {name!r}, and opening "
            "the run would execute it; if you trust that code, add --trust, or load(workdir, "
            "trust=True)"
        )


def foreign_names(setting: Any, path: str = "config") -> Iterator[tuple[str, str]]:
    """Yield each setting that names a class by its path, "package.module:Class", and that name."""
    if isinstance(setting, dict):
        for key, value in setting.items():
            if key == "name" and isinstance(value, str) and ":" in value:
                yield f"{path}.name", value
            else:
                yield from foreign_names(value, f"{path}.{key}")
    elif isinstance(setting, list):
        for value in setting:
            yield from foreign_names(value, path)


def needs_trust(workdir: Path) -> bool:
    """Tell whether a run directory names classes by their path, which only --trust opens.

    A folder that has no configuration, because only results are written to it, names none.
    """
    workdir = run_directory(workdir)
    if not (workdir / CONFIG).exists():
        return False
    saved = read_config(workdir)
    return any(foreign_names(json.loads(saved.to_json_best_effort())))
