"""Refuse a configuration before anything is spent on it: settings that nothing reads, numbers out of range, names that nothing has."""

import difflib
from typing import Any

from ml_collections import ConfigDict

import sde_lib
from samplers import TRACES
from sde_lib import TimeDistribution, check_name

from .build import Run, make
from .configs.common import base_config
from .sample import make_walk

# The smallest sensible value of each count.
AT_LEAST = {
    "seed": 0,
    "devices": 0,
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
    "sampling.seed": 0,
    "sampling.keep": -1,
    "fit.nfe": 1,
    "fit.noises": 2,
    "fit.updates": 1,
    "eval.batch_size": 1,
    "eval.number": 1,
    "eval.probes": 0,
    "eval.bound_draws": 0,
    "dequantise.steps": 2,
    "dequantise.batch_size": 1,
    "dequantise.width": 1,
    "dequantise.layers": 2,
}


def check_settings(config: ConfigDict) -> None:
    """Raise a ValueError if a setting is missing, is read by nothing or is too small.

    What sections `{name, **settings}` may hold is known to the object that they name; `build.make` checks it.
    """
    if wrong := _wrong_keys(config, base_config(), "config"):
        raise ValueError("; ".join(wrong))
    for path, low in AT_LEAST.items():
        *sections, key = path.split(".")
        value = config[sections[0]][key] if sections else config[key]
        if value < low:
            raise ValueError(f"need config.{path} >= {low}, got {value}")
    if not 0 <= config.ema < 1 or not 0 <= config.train.label_dropout <= 1:
        raise ValueError(
            f"need 0 <= ema < 1 and 0 <= train.label_dropout <= 1, got {config.ema} and {config.train.label_dropout}"
        )


def check_run(run: Run) -> None:
    """Raise a ValueError if the denoiser, the objective or a sampler of a run cannot be built, though training may not need it yet."""
    config, classes = run.config, run.facts.num_classes
    run.denoiser(run.split.params)
    make(sde_lib, config.objective.times, TimeDistribution)
    check_name("weighting", config.objective.weighting, sde_lib.WEIGHTINGS)
    check_name("objective", config.objective.name, sde_lib.OBJECTIVES)
    check_name("trace", config.eval.trace, TRACES)
    for setting in config.samplers.values():
        make_walk(setting, run.sde)
    for name in (config.sampling.sampler, *config.eval.samplers):
        check_name("sampler", name, config.samplers)
    label = config.sampling.label
    if label != -1 and not (config.train.conditional and 0 <= label < classes):
        known = (
            f"0..{classes - 1}, or -1 for all in turn"
            if config.train.conditional
            else "-1, as this run is not conditional"
        )
        raise ValueError(f"config.sampling.label is {label}, expected {known}")


def _wrong_keys(section: Any, known: Any, path: str) -> list[str]:
    if (
        not isinstance(known, ConfigDict)
        or not known
        or "name" in known
        or path == "config.samplers"
    ):
        return []
    if not isinstance(section, ConfigDict):
        return [f"{path} is a section with settings, got {section!r}"]
    wrong = [f"{path} lacks {key}; begin with base_config()" for key in known if key not in section]
    for key in section:
        if key not in known:
            close = difflib.get_close_matches(key, list(known), 1) or [", ".join(known)]
            wrong.append(f"{path} has no setting {key!r}; did you mean {close[0]}?")
        else:
            wrong += _wrong_keys(section[key], known[key], f"{path}.{key}")
    return wrong
