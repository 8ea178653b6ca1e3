"""How a run is made again: its configuration, and the commands."""

import json
from pathlib import Path
from typing import Any

from ..configs.common import base_config
from ..storage.saved import foreign_names
from ..storage.training_record import TRAINING, read_training
from .files import config_of
from .tables import in_code, table

# What is said elsewhere in the card: measured facts, and what stands beside them.
ELSEWHERE = ("facts.", "denoiser.sigma_data")
LONGEST = 60  # characters of a setting


def configuration(workdir: Path) -> list[str]:
    """Return the table of all settings that are not the defaults."""
    settings = _leaves(config_of(workdir))
    defaults = _leaves(json.loads(base_config().to_json()))
    rows = [
        (f"`{path}`", _shown(value), _shown(defaults[path]) if path in defaults else "")
        for path, value in settings.items()
        if not path.startswith(ELSEWHERE) and (path not in defaults or value != defaults[path])
    ]
    return [
        "What is not listed has its default; all settings are in [config.json](config.json).",
        "",
        *table(("setting", "here", "default"), rows),
    ]


def _leaves(section: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the settings of nested sections by their paths, such as "train.steps"."""
    leaves: dict[str, Any] = {}
    for name, value in section.items():
        place = f"{path}.{name}" if path else name
        if isinstance(value, dict):
            leaves |= _leaves(value, place)
        else:
            leaves[place] = value
    return leaves


def _shown(value: Any) -> str:
    """Return a setting as JSON in code, the beginning of a long one."""
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= LONGEST else f"`{text[:LONGEST]}` ..."


def reproduction(workdir: Path) -> list[str]:
    """Return the commands that make the run again, and that use it."""
    config = config_of(workdir)
    trust = " --trust" if any(foreign_names(config)) else ""
    lines = [
        "With [config.json](config.json) copied into an empty folder, `FOLDER`, training makes the "
        f"run again. Everything random in it comes from seed {config['seed']}; with the packages "
        "and devices above the parameters are bitwise the same.",
        "",
        *in_code(f"python -m experiments.main --workdir=FOLDER --mode=train{trust}"),
    ]
    commands = _commands(workdir)
    if commands:
        lines += ["", "It was trained by", "", *in_code("\n".join(commands))]
    return lines


def _commands(workdir: Path) -> list[str]:
    """Return the command lines that trained the run, as far as they are known."""
    if not (workdir / TRAINING).exists():
        return []
    starts = read_training(workdir)["starts"]
    return list(dict.fromkeys(start["command"] for start in starts if start.get("command")))
