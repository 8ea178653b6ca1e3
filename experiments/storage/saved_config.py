"""The `config.json` of a run directory.

It is read with one check of its form, and held against the weights that it belongs to.

Settings that are newer than the file take their defaults. Sections that are missing do not, as
nobody knows without them what was trained; only those that are newer than the file may be.
"""

import json
import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ..configs.common import base_config
from ..errors import RunError
from .checkpoint_folder import find, weights_config
from .reading import read_object
from .renamed import with_present_names

CONFIG = "config.json"

# Sections {name, **settings}: the object of that name knows which settings it has.
NAMED = ("data", "sde", "net")
# Sections that have a name and, beside it, settings with defaults that fit any.
NAMED_WITH_DEFAULTS = ("objective", "optim")
# What decides how weights are used; the rest decides how they came about, or is for the user to
# choose.
DECISIVE = ("sde", "net", "denoiser", "facts")
# Sections and settings that a saved configuration may lack.
NEWER_SECTIONS = ("guidance", "inverse", "averages", "average", "placement")
# Settings that are lists of numbers; other lists are of names.
NUMBERS = ("config.averages.rates", "config.averages.sigma_rel")
FACTS = ("shape", "levels", "num_classes", "sd")
NEWER_FACTS = ("cond_shape",)  # that a saved configuration may lack

_REMEDY = (
    "bring it back from a copy, or remove it and start --mode=train with the run's configuration, "
    "which writes it anew"
)


def read_config(workdir: Path) -> ConfigDict:
    """Return the configuration of a run directory.

    Raises:
        RunError: there is none, or it is damaged; the message names file and key.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise RunError(
            f"{workdir} is no run directory: it has no config.json. "
            f"Train one with --mode=train --workdir={workdir}"
        )
    saved = read_object(path, _REMEDY)
    if wrong := form_errors(saved):
        raise RunError(f"{path} is damaged: {'; '.join(wrong[:3])}; {_REMEDY}")
    return with_defaults(saved)


def with_defaults(saved: dict[str, Any]) -> ConfigDict:
    """Return a saved configuration with its settings as they are called now.

    Settings that are newer than it take their defaults.
    """
    filled = dict(saved)
    for section, defaults in _defaults().items():
        plain = isinstance(defaults, dict) and "name" not in defaults and section != "samplers"
        if plain or section in NAMED_WITH_DEFAULTS:
            filled[section] = {**defaults, **saved.get(section, {})}
        elif section in NEWER_SECTIONS:
            filled.setdefault(section, defaults)
    if "net" in filled:
        filled["net"] = with_present_names(filled["net"])
    if "shape" in filled.get("facts", {}):
        filled["facts"] = {**filled["facts"], "shape": tuple(filled["facts"]["shape"])}
        if cond_shape := filled["facts"].get("cond_shape"):
            filled["facts"]["cond_shape"] = tuple(cond_shape)
    if "samplers" in filled:
        filled["samplers"] = {
            name: with_present_names(sampler) for name, sampler in filled["samplers"].items()
        }
    return ConfigDict(filled)


def form_errors(saved: dict[str, Any]) -> list[str]:
    """Return, in words, what is wrong with the form of a saved configuration.

    Sections may be missing, and values of another type than the defaults.
    """
    wrong = []
    for key, default in _defaults().items():
        place = f"config.{key}"
        if key not in saved and key in NEWER_SECTIONS:
            continue
        if key not in saved:
            wrong.append(f"{place} is missing")
        elif not isinstance(default, dict):
            wrong += _value_errors(place, saved[key], default)
        elif not isinstance(saved[key], dict):
            wrong.append(f"{place} should be a section, got {saved[key]!r:.60}")
        elif key == "samplers":
            for name, sampler in saved[key].items():
                wrong += _name_errors(f"{place}.{name}", sampler)
        elif key == "facts":
            wrong += _fact_errors(saved[key])
        elif key in NAMED:
            wrong += _name_errors(place, saved[key])
        else:
            for name in saved[key].keys() & default.keys():
                wrong += _value_errors(f"{place}.{name}", saved[key][name], default[name])
    return wrong


def decisive(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that the weights belong to, as plain JSON."""
    filled = json.loads(with_defaults(config).to_json_best_effort())
    sections = {section: filled[section] for section in DECISIVE}
    part = {**sections, "conditional": filled["train"]["conditional"]}
    if filled["train"][
        "augment"
    ]:  # named only where it is on: older checkpoints know nothing of it
        part["augment"] = filled["train"]["augment"]
    return part


def check_belongs(
    workdir: Path,
    config: ConfigDict,
    step: int | None = None,
    sections: tuple[str, ...] | None = None,
) -> None:
    """Raise a RunError unless the weights of a checkpoint were made with a configuration.

    Args:
        workdir: the run directory.
        config: the configuration, resolved.
        step: of the checkpoint; None: the newest.
        sections: what has to agree; None: all that is decisive.
    """
    folder = find(workdir, step)
    made_with = weights_config(folder)
    if made_with is None:  # of an older version
        return
    made_with = {**made_with, "net": with_present_names(made_with["net"])}
    here = decisive(json.loads(config.to_json_best_effort()))
    if sections is not None:
        made_with = {section: made_with[section] for section in sections}
        here = {section: here[section] for section in sections}
    if changes := differences(made_with, here):
        raise RunError(
            f"the configuration does not fit the network that {folder} holds: "
            f"{'; '.join(changes[:5])}. Set it back in {workdir / CONFIG}, where that says so, or "
            "in the command"
        )


def differences(before: Any, now: Any, name: str = "config") -> list[str]:
    """Return where two configurations differ, in words; numbers may differ in the last digits."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            change
            for key in sorted(before.keys() | now.keys())
            for change in differences(before.get(key), now.get(key), f"{name}.{key}")
        ]
    if isinstance(before, float) and isinstance(now, float):
        same = math.isclose(before, now, rel_tol=1e-6)
    else:
        same = before == now
    return [] if same else [f"{name} was {before}, now {now}"]


def _defaults() -> dict[str, Any]:
    return json.loads(base_config().to_json())


def _name_errors(place: str, section: Any) -> list[str]:
    if not isinstance(section, dict):
        return [f"{place} should be a section, got {section!r:.60}"]
    if not isinstance(section.get("name"), str):
        return [f"{place}.name should be a name, got {section.get('name')!r:.60}"]
    return []


def _value_errors(place: str, value: Any, default: Any) -> list[str]:
    """Return what is wrong with the type of a value, given the default."""
    if default is None:
        return []
    if isinstance(default, dict) and "name" not in default:
        good = isinstance(value, dict)
        return [] if good else [f"{place} should be a section, got {value!r:.60}"]
    if isinstance(default, dict):  # a section in a section, such as objective.times
        return _name_errors(place, value)
    if isinstance(default, bool):
        good, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        good, expected = _is_whole(value), "a whole number"
    elif isinstance(default, float):
        good, expected = _is_number(value), "a number"
    elif place in NUMBERS:
        good = isinstance(value, list) and all(map(_is_number, value))
        expected = "a list of numbers"
    elif isinstance(default, list):
        good = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        expected = "a list of names"
    else:
        good, expected = isinstance(value, str), "a text"
    return [] if good else [f"{place} should be {expected}, got {value!r:.60}"]


def _fact_errors(facts: dict[str, Any]) -> list[str]:
    missing = [f"config.facts.{name} is missing" for name in FACTS if name not in facts]
    if missing:
        return missing
    wrong = [f"config.facts.{name} is no fact" for name in facts if name not in FACTS + NEWER_FACTS]
    shape, levels, classes, sd = (facts[name] for name in FACTS)
    if not isinstance(shape, list) or not shape or not all(_is_whole(n) and n > 0 for n in shape):
        wrong.append(f"config.facts.shape should be a list of sizes, got {shape!r:.60}")
    if levels is not None and not (_is_whole(levels) and levels >= 2):
        wrong.append(f"config.facts.levels should be null or 2 or more, got {levels!r:.60}")
    if not (_is_whole(classes) and classes >= 0):
        wrong.append(f"config.facts.num_classes should be 0 or more, got {classes!r:.60}")
    if not (_is_number(sd) and sd > 0):
        wrong.append(f"config.facts.sd should be a number above 0, got {sd!r:.60}")
    cond = facts.get("cond_shape")
    sizes = isinstance(cond, list) and cond and all(_is_whole(n) and n > 0 for n in cond)
    if cond is not None and not sizes:
        wrong.append(f"config.facts.cond_shape should be null or a list of sizes, got {cond!r:.60}")
    return wrong


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
