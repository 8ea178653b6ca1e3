"""From an entry of `config.samplers` to a walk from noise to data.

A walk is a sampler on a grid of times, a function with adaptive steps, or a fitted solver.

Every walk is called in the same way, `walk(key, denoise, sde, x, cond=..., index=..., keep=...,
progress=...)`, and returns `Samples`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array

import samplers
from samplers import (
    FewSteps,
    Sampler,
    Samples,
    dpm_adaptive,
    grids,
    probability_flow,
    recommended,
    reverse_sde,
)
from samplers.data_size import end_time
from sde_lib import SDE, Denoise, check_name

from .objects import make
from .walk_settings import settings_of

GRIDS = ("uniform", "quadratic", "log_snr", "centred", "karras")
ADAPTIVE = {
    "probability_flow": probability_flow,
    "dpm_adaptive": dpm_adaptive,
    "reverse_sde": reverse_sde,
}
OF_A_GRID = ("grid", "steps")
ENDS = ("start", "end")  # of a grid; by default where the process and the size of the data call for
LARGEST_STEPS = 1_000_000  # of a grid, which is held in memory


class GridWalk(NamedTuple):
    """A sampler on a grid of decreasing times (steps + 1,)."""

    sampler: Sampler
    ts: np.ndarray

    def __call__(
        self,
        key: Array,
        denoise: Denoise,
        sde: SDE,
        x: Array,
        *,
        cond: Any = None,
        index: Array | None = None,
        keep: int | None = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Walk x (batch, ...) from noise to data; the arguments are those of `samplers.sample`."""
        return samplers.sample(
            key,
            self.sampler,
            denoise,
            sde,
            self.ts,
            x,
            cond=cond,
            index=index,
            keep=keep,
            progress=progress,
        )

    def check(self, sde: SDE) -> None:
        """Raise a ValueError where the sampler has no coefficients on this grid."""
        # Traced, which takes a hundredth of the time of computing the coefficients.
        with np.errstate(all="ignore"):  # at the ends of time coefficients may be infinite
            jax.eval_shape(partial(self.sampler.plan, ts=cast(Any, self.ts)), sde)


class AdaptiveWalk(NamedTuple):
    """A walk that chooses its steps by their error, a function of `ADAPTIVE` with its settings."""

    function: Callable[..., Samples]
    settings: dict[str, Any]

    def __call__(
        self,
        key: Array,
        denoise: Denoise,
        sde: SDE,
        x: Array,
        *,
        cond: Any = None,
        index: Array | None = None,
        keep: int | None = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Walk x (batch, ...) from noise to data.

        No states can be kept, and the number of steps is not known beforehand.

        Raises:
            ValueError: states are to be kept.
        """
        del progress
        if keep != 0:
            raise ValueError(
                f"{self.function.__name__} keeps no walk; choose a sampler with a grid, or "
                "sampling.keep = 0"
            )
        if "key" in inspect.signature(self.function).parameters:
            return self.function(key, denoise, sde, x, cond=cond, index=index, **self.settings)
        return self.function(denoise, sde, x, cond=cond, **self.settings)

    def check(self, sde: SDE) -> None:
        """Check nothing: the settings were checked when this was made."""


class FittedWalk(NamedTuple):
    """A solver of few steps that --mode=fit has learned."""

    solver: FewSteps

    def __call__(
        self,
        key: Array,
        denoise: Denoise,
        sde: SDE,
        x: Array,
        *,
        cond: Any = None,
        index: Array | None = None,
        keep: int | None = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Walk x (batch, ...) from noise to data, without drawing anything."""
        del key, index, progress
        return self.solver(denoise, sde, x, cond=cond, keep=keep)

    def check(self, sde: SDE) -> None:
        """Check nothing: the numbers were checked when the solver was made."""


Walk = GridWalk | AdaptiveWalk | FittedWalk


def make_walk(setting: Any, sde: SDE, sd: float = 1.0) -> Walk:
    """Return the walk that one entry of `config.samplers` describes.

    `sd`: the standard deviation of the data, by which recommendations and grids are chosen.

    Raises:
        ValueError: no such sampler or grid, or a setting that it does not have or that is out of
            range.
    """
    settings = {key: value for key, value in dict(setting).items() if value is not None}
    name = settings.get("name")
    if name in ADAPTIVE:
        return AdaptiveWalk(ADAPTIVE[name], settings_of(ADAPTIVE[name], settings))
    if name == "recommended":
        return GridWalk(*recommended(sde, **settings_of(recommended, settings), sd=sd))
    if name == "FewSteps":
        return FittedWalk(_few_steps(settings))
    if missing := [key for key in OF_A_GRID if key not in settings]:
        raise ValueError(f"the sampler {name!r} needs a value for {', '.join(missing)}")
    of_grid = {key: settings.pop(key) for key in (*OF_A_GRID, *ENDS) if key in settings}
    ts = _times(name, of_grid, sde, sd)
    return GridWalk(sampler=make(samplers, settings, Sampler), ts=ts)


def _times(name: Any, settings: dict, sde: SDE, sd: float) -> np.ndarray:
    """Return the times (steps + 1,) of a grid from the settings `OF_A_GRID` and `ENDS`.

    `name`: that of the sampler, for the messages.
    """
    grid = settings["grid"]
    steps = settings["steps"]
    ends = {"end": end_time(sde, sd)}
    ends |= {key: settings[key] for key in ENDS if key in settings}
    check_name("grid", grid, GRIDS)
    for key, value in ends.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"{name} needs a number as {key}, got {value!r}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps > LARGEST_STEPS:
        raise ValueError(
            f"{name} needs a whole number of at most {LARGEST_STEPS} as steps, got {steps!r}"
        )
    return getattr(grids, grid)(sde, steps, **ends, sd=sd)


def _few_steps(settings: dict) -> FewSteps:
    """Return a fitted solver, whose numbers --mode=fit has written."""
    names = ("noise_levels", "network_levels", "weights")
    if missing := [key for key in names if key not in settings]:
        raise ValueError(f"FewSteps needs a value for {', '.join(missing)}; --mode=fit writes them")
    if unknown := sorted(settings.keys() - {*names, "name"}):
        raise ValueError(
            f"FewSteps has no setting {', '.join(unknown)}; it takes {', '.join(names)}"
        )
    return FewSteps(*(cast(Any, np.asarray(settings[key])) for key in names))
