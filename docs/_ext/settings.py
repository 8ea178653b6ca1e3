"""The settings of a configuration, read from the code: default, description, range, and the modes that a command line may change it for.

The description of a setting is the comment beside it in `experiments/configs/common.py`.
"""

import ast
import io
import math
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.command.schema import AT_LEAST, AT_MOST, RANGES
from experiments.configs import common
from experiments.modes import MODES

# described whole: {name, **settings}
OBJECTS = (
    "data",
    "facts",
    "sde",
    "net",
    "objective.times",
    "inverse.operator",
    "inverse.settings",
)


class Setting(NamedTuple):
    """One setting of a configuration."""

    path: str  # "train.steps"
    default: Any
    description: str
    range: str
    modes: tuple[str, ...]  # besides train


def settings() -> list[Setting]:
    """Return every setting in the order of the file; entries of `samplers` are described by `entries`."""
    config = common.base_config()
    descriptions = _descriptions(Path(common.__file__).read_text())
    rows = []
    for path, default in _leaves(config):
        modes = [
            name for name, mode in MODES.items() if name != "train" and mode.takes(path, config)
        ]
        rows.append(
            Setting(
                path=path,
                default=default,
                description=descriptions.get(path, ""),
                range=_range(path),
                modes=tuple(modes),
            )
        )
    return rows


def _leaves(section: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the paths and defaults of all settings; a section that names an object is one of them."""
    found = []
    for key, value in section.items():
        path = f"{prefix}{key}"
        if path == "samplers":
            continue
        if isinstance(value, ConfigDict) and path not in OBJECTS:
            found += _leaves(value, f"{path}.")
        else:
            found.append((path, value.to_dict() if isinstance(value, ConfigDict) else value))
    return found


def _descriptions(source: str) -> dict[str, str]:
    """Return the comment beside each key of the dictionary that `base_config` returns, by the key's path."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    (function,) = [node for node in functions if node.name == "base_config"]
    (outermost, *_) = [node for node in ast.walk(function) if isinstance(node, ast.Dict)]
    found: dict[str, str] = {}

    def read(dictionary: ast.Dict, prefix: str) -> None:
        for key, value in zip(dictionary.keys, dictionary.values, strict=True):
            assert isinstance(key, ast.Constant), "a setting has a plain name"
            path = f"{prefix}{key.value}"
            if key.lineno == value.end_lineno and key.lineno in comments:
                found[path] = comments[key.lineno]
            if isinstance(value, ast.Dict):
                read(value, f"{path}.")

    read(outermost, "")
    return found


def _range(path: str) -> str:
    """Say which values a number may have."""
    if path in RANGES:
        low, high, ends = RANGES[path]
        below = f"{low:g} {'≤' if ends[0] == '[' else '<'} x"
        return below if high == math.inf else f"{below} {'≤' if ends[1] == ']' else '<'} {high:g}"
    if path not in AT_LEAST:
        return ""
    return f"{AT_LEAST[path]} to {AT_MOST[path]}" if path in AT_MOST else f"≥ {AT_LEAST[path]}"
