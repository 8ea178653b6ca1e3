"""What a configuration may hold: sections, settings, their types, and the range of each number.

It is checked without building anything. What a section `{name, **settings}` may hold beyond the
defaults is known to the object that it names; `build.make` checks it.
"""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from ..configs.common import base_config

LARGEST_INT = 2**31 - 1  # of the counters on a device
LARGEST_SEED = 2**32 - 1

# The smallest sensible value of each count.
AT_LEAST = {
    "seed": 0,
    "devices": 0,
    "placement.fsdp": 1,
    "averages.snapshot_every": 0,
    "objective.adapt_every": 0,
    "objective.adapt_bins": 2,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.log_every": 1,
    "train.held_out_every": 1,
    "train.sample_every": 0,
    "train.checkpoint_every": 1,
    "train.keep": 1,
    "train.keep_period": 0,
    "sampling.number": 1,
    "sampling.batch_size": 1,
    "sampling.block": 0,
    "sampling.seed": 0,
    "sampling.label": -1,
    "sampling.keep": -1,
    "fit.nfe": 1,
    "fit.noises": 2,
    "fit.updates": 1,
    "inverse.steps": 0,
    "inverse.samples": 1,
    "inverse.number": 1,
    "eval.batch_size": 1,
    "eval.examples": 0,
    "eval.number": 1,
    "eval.probes": 0,
    "eval.bound_draws": 0,
    "dequantise.steps": 2,
    "dequantise.batch_size": 1,
    "dequantise.width": 1,
    "dequantise.layers": 2,
}

# The largest value of counts that are held in memory at once.
AT_MOST = {
    "seed": LARGEST_SEED,
    "sampling.seed": LARGEST_SEED,
    "objective.adapt_bins": 10_000,
    "fit.noises": 1_000_000,
    "fit.nfe": 1000,
    "inverse.steps": 1_000_000,
    "eval.probes": 1_000_000,
    "dequantise.width": 10_000,
    "dequantise.layers": 1000,
}

# Numbers that need not be whole, alone or in a tuple: lower end, upper end, and which of the two are
# themselves allowed.
RANGES = {
    "ema": (0.0, 1.0, "[)"),
    "averages.rates": (0.0, 1.0, "[)"),
    "averages.sigma_rel": (0.0, 12**-0.5, "()"),
    "train.label_dropout": (0.0, 1.0, "[]"),
    "train.augment": (0.0, 1.0, "[]"),
    "denoiser.sigma_data": (0.0, math.inf, "[)"),
    "dequantise.lr": (0.0, math.inf, "()"),
    "fit.rate": (0.0, math.inf, "()"),
    "inverse.std": (0.0, math.inf, "()"),
    "train.patience": (0.0, math.inf, "()"),
    "eval.rtol": (0.0, 1.0, "()"),
}

FACTS = ("shape", "levels", "num_classes", "sd", "cond_shape")


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Return a hint for a name that does not exist: the closest one that does, or all of them."""
    choices = [str(name) for name in known]
    close = difflib.get_close_matches(key, choices, 1) or [", ".join(choices)]
    return f"did you mean {close[0]}?"


def check_settings(config: ConfigDict) -> None:
    """Check the settings of a configuration.

    Raises:
        ValueError: one is missing, is read by nothing, has another type or is out of range.
    """
    base = base_config()
    if wrong := _wrong_keys(config, base, "config"):
        raise ValueError("; ".join(wrong))
    check_finite(config, "config")
    _check_types(config, base, "config")
    _check_ranges(config)
    _check_names(config)
    _check_facts(config.facts)


def _check_ranges(config: ConfigDict) -> None:
    """Raise a ValueError if a number is out of its range."""
    for path, low in AT_LEAST.items():
        value = _at(config, path)
        high = AT_MOST.get(path, LARGEST_INT)
        if value is not None and value < low:
            raise ValueError(f"need config.{path} >= {low}, got {value}")
        if value is not None and value > high:
            raise ValueError(f"need config.{path} <= {high}, got {value}")
    for path in RANGES:
        value = _at(config, path)
        numbers = value if isinstance(value, tuple | list) else (value,)
        for number in numbers:
            if number is not None:
                _check_range(path, number)


def _check_range(path: str, value: Any) -> None:
    """Raise a ValueError if a number, alone or in a tuple, is out of the range of its setting."""
    low, high, ends = RANGES[path]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"config.{path} takes numbers, got {value!r}")
    if not _within(value, low, high, ends):
        upper = "" if high == math.inf else f" {'<' if ends[1] == ')' else '<='} {high:g}"
        lower = f"{low:g} {'<' if ends[0] == '(' else '<='}"
        raise ValueError(f"need {lower} config.{path}{upper}, got {value}")


def check_finite(value: Any, path: str) -> None:
    """Raise a ValueError that names the setting if a configuration holds NaN.

    Infinity is left to whoever reads the setting: some of them mean "no limit" by it.
    """
    if isinstance(value, ConfigDict | dict):
        for key, inner in value.items():
            check_finite(inner, f"{path}.{key}")
    elif isinstance(value, tuple | list):
        for inner in value:
            check_finite(inner, path)
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{path} is nan; need a number")


def _within(value: float, low: float, high: float, ends: str) -> bool:
    """Tell whether a value is in an interval; `ends` "[)" allows its lower end alone."""
    above = low <= value if ends[0] == "[" else low < value
    below = value <= high if ends[1] == "]" else value < high
    return above and below


def _at(config: Any, path: str) -> Any:
    """Return the value of a setting by its path, or None if there is no such setting."""
    for key in path.split("."):
        if not isinstance(config, ConfigDict) or key not in config:
            return None
        config = config[key]
    return config


def _wrong_keys(section: Any, known: Any, path: str) -> list[str]:
    """Return, in words, which settings of a section are missing or are not among the `known`."""
    if not isinstance(known, ConfigDict):
        return []
    if not isinstance(section, ConfigDict):
        return [f"{path} is a section with settings, got {section!r}"]
    if not known or "name" in known or path == "config.samplers":
        return []
    wrong = [f"{path} lacks {key}; begin with base_config()" for key in known if key not in section]
    for key in section:
        if key not in known:
            wrong.append(f"{path} has no setting {key!r}; {did_you_mean(key, known)}")
        else:
            wrong += _wrong_keys(section[key], known[key], f"{path}.{key}")
    return wrong


def _check_types(section: Any, known: ConfigDict, path: str) -> None:
    """Raise a ValueError if a setting that has a default has another type than it."""
    for key, default in known.items():
        if key not in section:
            continue
        value = section[key]
        place = f"{path}.{key}"
        if isinstance(default, ConfigDict):
            if place not in ("config.samplers", "config.objective.times"):
                _check_types(value, default, place)
        elif not _like(value, default):
            raise ValueError(f"{place} must be {_kind(default)}, got {value!r}")


def _like(value: Any, default: Any) -> bool:
    """Tell whether a value may stand in place of a default."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, tuple | list):
        return isinstance(value, tuple | list)
    if isinstance(value, bool):
        return False
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _kind(default: Any) -> str:
    """Return in words what may stand in place of a default."""
    kinds = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple: "a tuple",
        list: "a tuple",
    }
    return kinds[type(default)]


def _check_names(config: ConfigDict) -> None:
    """Refuse names that the sections of samplers and of results could not have."""
    for name, setting in config.samplers.items():
        if not isinstance(setting, ConfigDict) or not isinstance(setting.get("name"), str):
            raise ValueError(
                f"config.samplers.{name} needs a name, such as --config.samplers.{name}.name=DDIM, "
                f"got {setting!r}"
            )
        if not name.strip() or name.startswith(".") or set(name) & set("/\\\0"):
            raise ValueError(f"config.samplers has an entry {name!r}, which cannot name a folder")
    for section in ("data", "net"):
        if not isinstance(config[section].get("name"), str):
            raise ValueError(
                f"config.{section} names no object; give --config.{section}.name=..., or begin "
                "with one of experiments/configs"
            )


def _check_facts(facts: ConfigDict) -> None:
    """Raise a ValueError unless the facts about the data are what a data set can have."""
    for key, value in facts.items():
        if key not in FACTS:
            raise ValueError(f"config.facts has no setting {key!r}; {did_you_mean(key, FACTS)}")
        if not _good_fact(key, value):
            raise ValueError(f"config.facts.{key} is {value!r}, expected {_EXPECTED[key]}")


_EXPECTED = {
    "shape": "(dimensions,) or (height, width, channels), whole numbers of at least 1",
    "levels": "the number of grey levels, at least 2, or None for continuous data",
    "num_classes": "the number of classes, 0 for data without labels",
    "sd": "the standard deviation of the scaled data, above 0",
    "cond_shape": "the shape of a condition, one to three whole numbers of at least 1, or None",
}


def _good_fact(key: str, value: Any) -> bool:
    """Tell whether a fact has a value that a data set can have."""

    def whole(number: Any, low: int) -> bool:
        return (
            isinstance(number, int)
            and not isinstance(number, bool)
            and low <= number <= LARGEST_INT
        )

    if key == "shape":
        return (
            isinstance(value, tuple | list)
            and len(value) in (1, 3)
            and all(whole(n, 1) for n in value)
        )
    if key == "cond_shape":
        sizes = isinstance(value, tuple | list) and 1 <= len(value) <= 3
        return value is None or (sizes and all(whole(n, 1) for n in value))
    if key == "levels":
        return value is None or whole(value, 2)
    if key == "num_classes":
        return whole(value, 0)
    return isinstance(value, int | float) and 0 < value < math.inf
