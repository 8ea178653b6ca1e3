"""From an entry of `config.samplers` to a walk: a sampler on a time grid, what `recommended` chooses, or an adaptive walk."""

import inspect
from functools import partial
from typing import Any, cast

import numpy as np

import samplers
from samplers import (
    FewSteps,
    Sampler,
    dpm_adaptive,
    grids,
    probability_flow,
    recommended,
    reverse_sde,
)
from samplers.data_size import end_time
from sde_lib import SDE, check_name

from .objects import make
from .typed import check_setting

GRIDS = ("uniform", "quadratic", "log_snr", "centred", "karras")
ADAPTIVE = {
    "probability_flow": probability_flow,
    "dpm_adaptive": dpm_adaptive,
    "reverse_sde": reverse_sde,
}  # they own no grid
NO_SETTINGS = (
    "key",
    "denoise",
    "sde",
    "x",
    "cond",
    "index",
    "sd",
)  # what a run hands to a walk itself
OF_A_GRID = ("grid", "steps")
ENDS = ("start", "end")  # of a grid; by default where the process and the size of the data call for
LARGEST_STEPS = 1_000_000  # of a grid, which is held in memory

# Settings of walks whose range is the same wherever they occur: low < value <= high.
RANGES = {
    "start": (0.0, 1.0),
    "end": (0.0, 1.0),
    "rtol": (0.0, 1.0),
    "atol": (0.0, 1.0),
    "first": (0.0, 1.0),
    "safety": (0.0, 1.0),
    "max_steps": (0, 2**31 - 1),
}


def make_walk(setting: Any, sde: SDE, sd: float = 1.0) -> tuple[Any, Any]:
    """Return the sampler of one entry of `config.samplers` and its time grid, those recommended, or an adaptive walk and None.

    `sd`: the standard deviation of the data, by which recommendations and grids are chosen.

    Raises:
        ValueError: no such sampler or grid, or a setting that it does not have or that is out of range.
    """
    settings = {key: value for key, value in dict(setting).items() if value is not None}
    name = settings.get("name")
    if name in ADAPTIVE:
        return partial(ADAPTIVE[name], **_settings_of(ADAPTIVE[name], settings)), None
    if name == "recommended":
        return recommended(sde, **_settings_of(recommended, settings), sd=sd)
    if name == "FewSteps":
        return _few_steps(settings), None
    if missing := [key for key in OF_A_GRID if key not in settings]:
        raise ValueError(f"the sampler {name!r} needs a value for {', '.join(missing)}")
    grid, steps = (settings.pop(key) for key in OF_A_GRID)
    chosen = {"end": end_time(sde, sd)}
    chosen |= {key: settings.pop(key) for key in ENDS if key in settings}
    check_name("grid", grid, GRIDS)
    for key, value in chosen.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{name} needs a number as {key}, got {value!r}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps > LARGEST_STEPS:
        raise ValueError(
            f"{name} needs a whole number of at most {LARGEST_STEPS} as steps, got {steps!r}"
        )
    sampler = make(samplers, settings, Sampler)
    return sampler, getattr(grids, grid)(sde, steps, **chosen, sd=sd)


def _settings_of(function: Any, settings: dict) -> dict:
    """Return the settings of a function, checked; its name left out.

    Raises:
        ValueError: one that it does not have, or that has another type or is out of range.
    """
    name, parameters = settings["name"], inspect.signature(function).parameters
    known = {key: p for key, p in parameters.items() if key not in NO_SETTINGS}
    if name == "recommended":
        known = {key: p for key, p in known.items() if key in ("nfe", "stochastic", "end")}
    given = {key: value for key, value in settings.items() if key != "name"}
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{name} has no setting {', '.join(unknown)}; it takes {', '.join(known)}")
    needed = [key for key, p in known.items() if p.default is p.empty]
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    for key, value in given.items():
        check_setting(name, key, value, known[key])
        _check_range(name, key, value)
    return given


def _check_range(name: str, key: str, value: Any) -> None:
    if key not in RANGES:
        return
    low, high = RANGES[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low < value <= high:
        raise ValueError(f"{name} needs {low:g} < {key} <= {high:g}, got {value!r}")


def _few_steps(settings: dict) -> FewSteps:
    """Return a fitted solver, whose numbers --mode=fit has written."""
    names = ("levels", "asked", "weights")
    if missing := [key for key in names if key not in settings]:
        raise ValueError(f"FewSteps needs a value for {', '.join(missing)}; --mode=fit writes them")
    if unknown := sorted(settings.keys() - {*names, "name"}):
        raise ValueError(
            f"FewSteps has no setting {', '.join(unknown)}; it takes {', '.join(names)}"
        )
    return FewSteps(*(cast(Any, np.asarray(settings[key])) for key in names))
