"""Reading a configuration file: a Python file with `get_config(variant)`, named as `FILE.py` or `FILE.py:VARIANT`."""

import importlib.util
import inspect
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ..errors import RunError


def read_config_file(name: str) -> ConfigDict:
    """Return the configuration that a file gives, unlocked, so that a section may be given settings that it does not spell out.

    Raises:
        RunError: no such file, or one that cannot be used; the message names the line of the file.
    """
    path, variant = split_variant(name)
    where = Path(path).expanduser()
    if not where.is_file():
        what = "is a folder" if where.is_dir() else "No such file"
        raise RunError(
            f"cannot read --config={name}: {path}: {what}; name a file such as experiments/configs/digits.py:vp"
        )
    if where.suffix != ".py":
        raise RunError(
            f"cannot read --config={name}: a configuration is a Python file with get_config(variant), such as "
            "experiments/configs/digits.py; to go on with a run, name its --workdir and leave --config out"
        )
    module = _run(where, name)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise RunError(f"{path} has no function get_config(variant), which returns a configuration")
    if variant is not None and not inspect.signature(get_config).parameters:
        raise RunError(f"{path} has no variants, got {variant!r}; leave out what follows the colon")
    try:
        config: Any = get_config() if variant is None else get_config(variant)
    except RunError as error:
        raise RunError(f"cannot use --config={name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's file comes up with
        raise RunError(_says_where(where, error)) from error
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise RunError(
            f"get_config of {path} returns a {kind}, expected an ml_collections.ConfigDict; begin with base_config()"
        )
    return config.unlock()


def split_variant(name: str) -> tuple[str, str | None]:
    """Return the path and the variant of a configuration's name; the variant is None where none is given."""
    path, colon, variant = name.rpartition(":")
    if colon and path.endswith(".py"):
        return path, variant
    return name, None


def _run(path: Path, name: str) -> Any:
    spec: Any = importlib.util.spec_from_file_location("configuration", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except RunError as error:
        raise RunError(f"cannot use --config={name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's file comes up with
        raise RunError(_says_where(path, error)) from error
    return module


def _says_where(path: Path, error: BaseException) -> str:
    """Say what went wrong in a configuration file, and in which line of it."""
    line = error.lineno if isinstance(error, SyntaxError) and _same(error.filename, path) else None
    if line is None:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if _same(f.filename, path)), None)
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    place = f"{path}, line {line}" if line else f"{path}"
    return f"{place}: {type(error).__name__}: {text}; correct the configuration file"


def _same(filename: str | None, path: Path) -> bool:
    return filename is not None and Path(filename).absolute() == path.absolute()
