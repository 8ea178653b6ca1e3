"""Types of settings: a value is compared with the annotation of its parameter before it is used."""

import collections.abc
import dataclasses
import inspect
import math
import numbers
import types
import typing
from typing import Any

LARGEST_INT = 2**31 - 1  # what a counter on a device holds


def check_setting(owner: str, name: str, value: Any, parameter: inspect.Parameter) -> None:
    """Raise a ValueError unless `value` is finite and of the type that a parameter has.

    Infinity passes where it is the parameter's default.
    """
    if value is None or parameter.annotation is parameter.empty:
        return
    unlimited = isinstance(parameter.default, float) and math.isinf(parameter.default)
    if not matches(value, parameter.annotation):
        expected = describe(parameter.annotation) or "another kind of value"
        raise ValueError(f"{owner} needs {expected} as {name}, got {value!r}")
    for number in value if isinstance(value, tuple | list) else (value,):
        _check_finite(owner, name, number, unlimited)


def settings_class(annotation: Any, kind: type) -> type | None:
    """Return the class of a group of settings that an annotation names, or None.

    It is a dataclass that is no `kind` of object.
    """
    for option in typing.get_args(annotation) or (annotation,):
        is_class = isinstance(option, type) and dataclasses.is_dataclass(option)
        if is_class and not issubclass(option, kind):
            return option
    return None


def checked_section(owner: str, name: str, section: Any, group: type) -> dict[str, Any]:
    """Return the settings of a section that is a group of settings of an object.

    A setting that is None is not given. One that the group does not have is left in: the object
    refuses it.

    Args:
        owner: name of the object's class.
        name: name of the group.
        section: the settings of the group.
        group: the class of the group.

    Raises:
        ValueError: a setting of another type than that of the group's class.
    """
    known = inspect.signature(group).parameters
    settings = {}
    for key, value in section.items():
        if value is None:
            continue
        settings[key] = tuple(value) if isinstance(value, list) else value
        if key in known:
            check_setting(owner, f"{name}.{key}", settings[key], known[key])
    return settings


def _check_finite(owner: str, name: str, number: Any, unlimited: bool) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return
    if isinstance(number, int):
        if abs(number) > LARGEST_INT:
            raise ValueError(f"{owner} needs a number below 2^31 as {name}, got {number}")
    elif math.isnan(number) or (math.isinf(number) and not unlimited):
        raise ValueError(f"{owner} needs a finite number as {name}, got {number}")


def matches(value: Any, annotation: Any) -> bool:
    """Tell whether a value is of an annotated type.

    Where the type is not known here, every value but a text passes.
    """
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, option) for option in typing.get_args(annotation))
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    if origin in (collections.abc.Sequence, tuple, list):
        inner = typing.get_args(annotation)[0]
        return isinstance(value, tuple | list) and all(matches(v, inner) for v in value)
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    return annotation is Any or not isinstance(value, str)


def describe(annotation: Any) -> str:
    """Return what an annotation asks for in words.

    The result is "" where the annotation is none of those that are known here.
    """
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "a text",
        type(None): "None",
    }
    if annotation in words:
        return words[annotation]
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if settings_class(annotation, type(None)) is not None:
        return "a section of settings"
    if origin in (typing.Union, types.UnionType):
        options = [describe(option) for option in inner if option is not type(None)]
        return " or ".join(options) if all(options) else ""
    if origin in (collections.abc.Sequence, tuple, list):
        plural = {int: "whole numbers", float: "numbers", str: "texts"}
        return f"a tuple of {plural[inner[0]]}" if inner and inner[0] in plural else ""
    return ""
