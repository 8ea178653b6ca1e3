"""Settings that a command line changes: text becomes a value of the type that the setting has.

The type is that of the default in `configs/common.py`. Where there is none, in a section that names
an object, it is the type that the configuration's own value has, whole numbers and others taken as
one; and for a setting that the configuration does not spell out, a number, a tuple, true or false
are recognised as in Python, and anything else is text.
"""

import ast
import math
from typing import Any

from ml_collections import ConfigDict

from ..configs.common import base_config
from ..errors import RunError
from ..storage.renamed import present_name
from .parse import FALSE, TRUE, Override
from .schema import did_you_mean

NUMBER = (int, float)


def apply(config: ConfigDict, overrides: tuple[Override, ...]) -> None:
    """Change the settings of an unlocked configuration that a command line gives.

    Raises:
        RunError: no such setting, a value of another type, or a section given after one of its
            settings.
    """
    base = base_config()
    for number, override in enumerate(overrides):
        keys = override.path.split(".")
        if not all(keys):
            raise RunError(
                f"{override}: there is an empty name in config.{override.path}; write "
                "--config.section.name=value"
            )
        for earlier in overrides[:number]:
            if earlier.path.startswith(override.path + "."):
                raise RunError(
                    f"{override} would undo {earlier}, which stands before it; give the section "
                    "first"
                )
        _refuse_old_name(config, keys, override)
        section, known = _section_of(config, base, keys, override)
        _set(section, known, keys[-1], override)


def value_at(config: Any, path: str, default: Any = None) -> Any:
    """Return the value of a setting by its path, or the default if there is no such setting."""
    for key in path.split("."):
        if not isinstance(config, ConfigDict) or key not in config:
            return default
        config = config[key]
    return config


def _refuse_old_name(config: ConfigDict, keys: list[str], override: Override) -> None:
    """Raise a RunError that gives the new name, if a network's setting is called by its old one."""
    if len(keys) != 2 or keys[0] != "net" or not isinstance(config.get("net"), ConfigDict):
        return
    if new := present_name(config.net.get("name"), keys[1]):
        value = "" if override.text is None else f"={override.text}"
        raise RunError(
            f"{override}: this setting is config.net.{new} now; write --config.net.{new}{value}"
        )


def _section_of(config: ConfigDict, base: Any, keys: list[str], override: Override):
    """Return the section that holds a setting, and the same section of the defaults.

    The section is made where it is missing; the defaults may have none, which gives None.
    """
    section: Any = config
    known: Any = base
    for depth, key in enumerate(keys[:-1]):
        path = ".".join(keys[: depth + 1])
        _check_key(known, key, keys[:depth], override)
        if key not in section or section[key] is None:
            section[key] = ConfigDict()
        if not isinstance(section[key], ConfigDict):
            raise RunError(
                f"{override}: config.{path} is {section[key]!r}, not a section; give it by itself, "
                f"--config.{path}=..."
            )
        section = section[key]
        known = known[key] if isinstance(known, ConfigDict) and key in known else None
    _check_key(known, keys[-1], keys[:-1], override)
    return section, known


def _check_key(known: Any, key: str, before: list[str], override: Override) -> None:
    """Refuse a key that a section of fixed settings does not have."""
    fixed = isinstance(known, ConfigDict) and known and "name" not in known
    if fixed and before != ["samplers"] and key not in known:
        place = ".".join(["config", *before])
        raise RunError(f"{override}: {place} has no setting {key!r}; {did_you_mean(key, known)}")


def _set(section: ConfigDict, known: Any, key: str, override: Override) -> None:
    """Change the setting `key` of a section, whose defaults are `known`."""
    default = known[key] if isinstance(known, ConfigDict) and key in known else None
    current = section[key] if key in section else None
    if isinstance(current if default is None else default, ConfigDict):
        value = _as_section(override)
    elif default is not None:
        value = _typed(override, default, exact=True)
    elif key in section and current is None:
        value = _placeholder(override, section.get_type(key))
    else:
        value = _typed(override, current, exact=False)
    with section.ignore_type():
        section[key] = value


def _placeholder(override: Override, kind: type) -> Any:
    """Return the value of an override for a setting that has a type, but no value yet."""
    samples = {int: 0, float: 0.0, str: "", bool: False}
    return _typed(override, samples.get(kind), exact=kind is not float)


def _as_section(override: Override) -> ConfigDict:
    """Return the value of an override as a section."""
    value = _literal(override.text or "")
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RunError(
            f"{override}: config.{override.path} is a section; give its settings, such as "
            f"--config.{override.path}.name=..."
        )
    return ConfigDict(value)


def _typed(override: Override, like: Any, *, exact: bool) -> Any:
    """Return the value of an override as one of the type of `like`.

    With `exact` a setting whose default is a whole number takes only whole numbers.
    """
    text = override.text
    if text == "None" and not exact:  # back to the default of the object that is named
        return None
    if isinstance(like, bool) or (text is None and like is None):
        return _boolean(override)
    if text is None:
        raise RunError(f"{override} needs a value: --config.{override.path}=...")
    if isinstance(like, str):
        return text
    if isinstance(like, tuple | list):
        return _tuple(text)
    value = _literal(text)
    if like is None:
        return _number(value) if isinstance(value, str) else value
    whole = isinstance(like, int) and exact
    kinds = (int,) if whole else NUMBER
    if isinstance(value, str):
        value = _number(value)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise RunError(f"{override} is no {'whole number (int)' if whole else 'number'}, {text!r}")
    return float(value) if isinstance(like, float) and abs(value) < 1e300 else value


def _boolean(override: Override) -> bool:
    """Return the value of an override as True or False; no value means True."""
    text = "true" if override.text is None else override.text.lower()
    if text not in (*TRUE, *FALSE):
        raise RunError(f"{override} is neither true nor false, {override.text!r}")
    return text in TRUE


def _tuple(text: str) -> tuple:
    """Read "(1, 2)", "1,2", "ddim,ode" or "" as a tuple."""
    value = _literal(text)
    if isinstance(value, tuple | list):
        return tuple(value)
    if not isinstance(value, str):
        return (value,)
    words = [word.strip() for word in text.strip("()[] ").split(",")]
    return tuple(_literal(word.strip("'\"")) for word in words if word)


def _literal(text: str) -> Any:
    """Return what a text means in Python, if it is a literal, or else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _number(text: str) -> Any:
    """Return "inf" and "nan" as the numbers that they are; other text as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if not math.isfinite(value) else text
