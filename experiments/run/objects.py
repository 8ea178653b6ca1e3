"""From a section `{name, **settings}` to the object that it names.

A name is looked up in the package that exports it; there is no registry. A class of one's own is named by its path,
"package.module:Class", which is imported.
"""

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from ..storage.renamed import present_name
from .typed import check_setting, checked_section, settings_class

# What a constructor raises for settings of a kind that it was not made for.
CONFUSED = (TypeError, ArithmeticError, LookupError, AssertionError, AttributeError, MemoryError)


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Put the place in a configuration, "config.sde", before the message of a ValueError that is raised within."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("config."):
            raise
        raise ValueError(f"{place}: {error}") from error


def make(package: ModuleType, section: Any, kind: type, **extra: Any) -> Any:
    """Build the `kind` of object of `package` that a section names, from the section's settings, sections themselves or not, and `extra`.

    Raises:
        ValueError: no such name, or a setting that it does not have, or of another type; the message lists the choices.
    """
    settings = {k: v for k, v in section.items() if v is not None}  # None: not given
    found = find_class(package, settings.pop("name", None), kind)
    name = found.__name__
    parameters = {
        k: p for k, p in inspect.signature(found.__init__).parameters.items() if k != "self"
    }
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = {k: p for k, p in parameters.items() if p.kind not in variable}
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    if found.__init__ is object.__init__:  # whose signature says *args, **kwargs; it takes nothing
        takes_all = False
    unknown = sorted(settings.keys() - known.keys())
    if unknown and not takes_all:
        takes = ", ".join(k for k in known if k not in extra) or "none"
        renamed = [f"{old} is {new} now" for old in unknown if (new := present_name(name, old))]
        remedy = ", ".join(renamed) or f"it takes {takes}"
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; {remedy}")
    given = {*settings, *extra}
    needed = [k for k, p in known.items() if p.default is p.empty]
    if missing := [k for k in needed if k not in given]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    for key, value in settings.items():
        if isinstance(value, list):
            settings[key] = tuple(value)
        elif isinstance(value, ConfigDict | dict):
            group = settings_class(known[key].annotation, kind) if key in known else None
            if group is None:
                settings[key] = make(package, value, kind)
            else:
                settings[key] = checked_section(name, key, value, group)
        if key in known:
            check_setting(name, key, settings[key], known[key])
    if not takes_all:
        extra = _wanted(name, known, extra)
    try:
        return found(**settings, **extra)
    except CONFUSED as error:
        raise ValueError(
            f"{name} cannot be built with {settings}: {type(error).__name__}: {error}; correct these settings"
        ) from error


def _wanted(name: str, known: dict, extra: dict) -> dict:
    """Return those of the values that are not settings which a class takes; a network without labels need not take `num_classes` = 0."""
    for key, value in extra.items():
        if key not in known and value:
            raise ValueError(
                f"{name} does not take {key}, which is {value} here; add that parameter"
            )
    return {key: value for key, value in extra.items() if key in known}


def find_class(package: ModuleType, name: Any, kind: type) -> type:
    """Return the class of a name: one that `package` exports, or one of one's own by its path.

    Raises:
        ValueError: there is none, or it is no `kind`, or is abstract.
    """
    if isinstance(name, str) and ":" in name:
        return _own(name, kind)
    public = {
        n: c
        for n, c in vars(package).items()
        if inspect.isclass(c) and issubclass(c, kind) and not inspect.isabstract(c)
    }
    if name not in public:
        raise ValueError(
            f"{package.__name__} has no {kind.__name__} {name!r}; choose one of {', '.join(sorted(public))}"
        )
    return public[name]


def _own(path: str, kind: type) -> type:
    """Import a class by its path.

    Raises:
        ValueError: it cannot be imported, or is not what is needed.
    """
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module comes up with
        raise ValueError(
            f"cannot import {path!r}: {type(error).__name__}: {error}; start from the folder that holds its package, or set PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, kind)]
        raise ValueError(
            f"{path!r}: {module_name} has no class {class_name!r}; it has {', '.join(classes) or 'none of this kind'}"
        )
    if not issubclass(found, kind) or inspect.isabstract(found):
        what = "is abstract" if issubclass(found, kind) else f"is no {kind.__name__}"
        raise ValueError(f"{path!r} {what}; name a class that can be built as {kind.__name__}")
    return found
