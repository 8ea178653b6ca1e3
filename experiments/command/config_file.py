"""Reading a configuration file.

It is a Python file with `get_config(variant)`, named as `FILE.py` or `FILE.py:VARIANT`.
"""

import contextlib
import importlib.util
import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ..errors import RunError


def read_config_file(name: str) -> ConfigDict:
    """Return the configuration that a file gives.

    It is unlocked, so that a section may be given settings that it does not spell out.

    Raises:
        RunError: no such file, or one that cannot be used; the message names the line of the file.
    """
    path, variant = split_variant(name)
    file = _python_file(path, name)
    get_config = getattr(_run(file, name), "get_config", None)
    if not callable(get_config):
        raise RunError(f"{path} has no function get_config(variant), which returns a configuration")
    if variant is not None and not inspect.signature(get_config).parameters:
        raise RunError(f"{path} has no variants, got {variant!r}; leave out what follows the colon")
    with _errors_of(file, name):
        config: Any = get_config() if variant is None else get_config(variant)
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise RunError(
            f"get_config of {path} returns a {kind}, expected an ml_collections.ConfigDict; begin "
            "with base_config()"
        )
    return config.unlock()


def split_variant(name: str) -> tuple[str, str | None]:
    """Return the path and the variant of a configuration's name.

    The variant is None where none is given.
    """
    path, colon, variant = name.rpartition(":")
    if colon and path.endswith(".py"):
        return path, variant
    return name, None


def _python_file(path: str, name: str) -> Path:
    """Return the file at `path`; raise a RunError if there is none, or one of another kind.

    `name`: the configuration as the command line has it, for the message.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "No such file"
        raise RunError(
            f"cannot read --config={name}: {path}: {problem}; name a file such as "
            "experiments/configs/digits.py:vp"
        )
    if file.suffix != ".py":
        raise RunError(
            f"cannot read --config={name}: a configuration is a Python file with "
            "get_config(variant), such as experiments/configs/digits.py; to go on with a run, "
            "name its --workdir and leave --config out"
        )
    return file


def _run(file: Path, name: str) -> Any:
    """Execute a configuration file and return its module."""
    spec: Any = importlib.util.spec_from_file_location("configuration", file)
    module = importlib.util.module_from_spec(spec)
    with _errors_of(file, name):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _errors_of(file: Path, name: str) -> Iterator[None]:
    """Raise a RunError that names the line of a configuration file that an error comes from."""
    try:
        yield
    except RunError as error:
        raise RunError(f"cannot use --config={name}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a user's file comes up with
        raise RunError(_with_line(file, error)) from error


def _with_line(path: Path, error: BaseException) -> str:
    """Return what went wrong in a configuration file, and in which line of it."""
    line = error.lineno if isinstance(error, SyntaxError) and _same(error.filename, path) else None
    if line is None:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if _same(f.filename, path)), None)
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    place = f"{path}, line {line}" if line else f"{path}"
    return f"{place}: {type(error).__name__}: {text}; correct the configuration file"


def _same(filename: str | None, path: Path) -> bool:
    """Tell whether a traceback's name of a file is that of `path`."""
    return filename is not None and Path(filename).absolute() == path.absolute()
