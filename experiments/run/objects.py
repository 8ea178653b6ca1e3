"""From a section `{name, **settings}` to the object that it names.

A name is looked up in the package that exports it; there is no registry. A class of one's own is
named by its path, "package.module:Class", which is imported.
"""

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ..storage.renamed import present_name
from .typed import check_setting, checked_section, settings_class

# What a constructor raises for settings of a kind that it was not made for.
CONFUSED = (TypeError, ArithmeticError, LookupError, AssertionError, AttributeError, MemoryError)


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a place in a configuration, such as "config.sde", before the messages of ValueErrors."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("config."):
            raise
        raise ValueError(f"{place}: {error}") from error


def make(package: ModuleType, section: Any, kind: type, **extra: Any) -> Any:
    """Return the object of `package` that a section names, built from the section's settings.

    Settings may be sections themselves, of objects of the same kind.

    Args:
        package: exports the classes, see `find_class`.
        section: `{name, **settings}`; a setting that is None counts as not given.
        kind: what the class has to be a subclass of.
        extra: arguments that are no settings; those that are null are left out if the class does
            not take them.

    Raises:
        ValueError: no such name, or a setting that it does not have, or of another type; the
            message lists the choices.
    """
    settings = {k: v for k, v in section.items() if v is not None}
    cls = find_class(package, settings.pop("name", None), kind)
    name = cls.__name__
    signature = _signature(cls)
    _check_names(name, signature, set(settings), set(extra))
    for key, value in settings.items():
        if isinstance(value, list):
            settings[key] = tuple(value)
        elif isinstance(value, ConfigDict | dict):
            group = None
            if key in signature.parameters:
                group = settings_class(signature.parameters[key].annotation, kind)
            if group is None:
                settings[key] = make(package, value, kind)
            else:
                settings[key] = checked_section(name, key, value, group)
        if key in signature.parameters:
            check_setting(name, key, settings[key], signature.parameters[key])
    if not signature.takes_all:
        extra = _wanted(name, signature.parameters, extra)
    try:
        return cls(**settings, **extra)
    except CONFUSED as error:
        raise ValueError(
            f"{name} cannot be built with {settings}: {type(error).__name__}: {error}; correct "
            "these settings"
        ) from error


class _Signature(NamedTuple):
    """What the constructor of a class takes."""

    parameters: dict[str, inspect.Parameter]  # that have a name
    takes_all: bool  # any other keyword, too


def _signature(cls: type) -> _Signature:
    """Return what the constructor of a class takes."""
    if cls.__init__ is object.__init__:  # its signature has *args and **kwargs, but takes nothing
        return _Signature(parameters={}, takes_all=False)
    parameters = dict(inspect.signature(cls.__init__).parameters)
    parameters.pop("self", None)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return _Signature(
        parameters={key: p for key, p in parameters.items() if p.kind not in variable},
        takes_all=any(p.kind == p.VAR_KEYWORD for p in parameters.values()),
    )


def _check_names(name: str, signature: _Signature, settings: set[str], extra: set[str]) -> None:
    """Raise a ValueError if a class has no such setting, or needs one that is not given."""
    known = signature.parameters
    unknown = sorted(settings - known.keys())
    if unknown and not signature.takes_all:
        takes = ", ".join(key for key in known if key not in extra) or "none"
        renamed = [f"{old} is {new} now" for old in unknown if (new := present_name(name, old))]
        remedy = ", ".join(renamed) or f"it takes {takes}"
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; {remedy}")
    needed = [key for key, p in known.items() if p.default is p.empty]
    if missing := [key for key in needed if key not in settings | extra]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")


def _wanted(name: str, known: dict, extra: dict) -> dict:
    """Return those values of `extra` that a class takes.

    A network without labels need not take `num_classes` = 0; a value that is not null is needed.
    """
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
            f"{package.__name__} has no {kind.__name__} {name!r}; choose one of "
            f"{', '.join(sorted(public))}"
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
            f"cannot import {path!r}: {type(error).__name__}: {error}; start from the folder that "
            "holds its package, or set PYTHONPATH"
        ) from error
    cls = getattr(module, class_name, None)
    if not inspect.isclass(cls):
        classes = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, kind)]
        raise ValueError(
            f"{path!r}: {module_name} has no class {class_name!r}; it has "
            f"{', '.join(classes) or 'none of this kind'}"
        )
    if not issubclass(cls, kind) or inspect.isabstract(cls):
        what = "is abstract" if issubclass(cls, kind) else f"is no {kind.__name__}"
        raise ValueError(f"{path!r} {what}; name a class that can be built as {kind.__name__}")
    return cls
