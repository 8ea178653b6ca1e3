"""The average of the parameters that a mode works with, out of a checkpoint and the snapshots."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import RunError
from ..state import TrainState
from ..storage.checkpoint_folder import find, weights_hash
from ..storage.identity import digest
from ..storage.snapshots import restore_snapshot, snapshot_hash, snapshot_steps
from .averages import SIGMA_REL, Choice, choice_of, kept
from .build import Run
from .power_average import Combination, Profile, fit_profile

# The relative error of a reconstructed profile from which on it is reported as a warning, and from
# which on it is another average than the one that was asked for.
DOUBTFUL = 0.01
REFUSED = 0.1
# Where widths that can be reconstructed are looked for.
WIDTHS = np.geomspace(0.002, 0.28, 200)


class Chosen(NamedTuple):
    """Averaged parameters."""

    params: Any
    text: str  # says which average it is
    identity: str  # of the parameters


class Stored(NamedTuple):
    """A power-function average that is kept, by its place."""

    profile: Profile
    place: int  # among the averages of a state


def choose(run: Run, workdir: Path, state: TrainState, average: str) -> Chosen:
    """Return an average of the parameters up to a checkpoint.

    Args:
        run: the run.
        workdir: its directory.
        state: what the checkpoint holds.
        average: its name, see `averages`.

    Raises:
        RunError: a relative width that what is stored does not reach, or nothing is stored.
        ValueError: the run keeps no such average.
    """
    step = int(state.step)
    checkpoint = weights_hash(find(workdir, step))
    choice = choice_of(average)
    if choice.kind == SIGMA_REL:
        return _reconstructed(run, workdir, state, choice.value or 0.0, checkpoint)
    if choice.value in (None, run.config.ema):
        return Chosen(state.ema, f"the moving average of rate {run.config.ema:g}", checkpoint)
    params = state.averages[_place(run, state, choice)]
    text = f"the moving average of rate {choice.value:g}"
    return Chosen(params, text, digest(f"{checkpoint} {choice}".encode()))


def _place(run: Run, state: TrainState, choice: Choice) -> int:
    """Return the place of an average among those of a state."""
    if not state.averages:
        raise RunError(
            f"config.average is {choice}, but the checkpoint of step {int(state.step)} was converted "
            "and holds a single average; use --config.average=ema, or train it on"
        )
    return kept(run.config).index(choice)


def _reconstructed(
    run: Run, workdir: Path, state: TrainState, sigma_rel: float, checkpoint: str
) -> Chosen:
    """Return the power-function average of a relative width, made of those that are stored."""
    step = int(state.step)
    widths = [choice for choice in kept(run.config) if choice.kind == SIGMA_REL]
    _place(run, state, widths[0])
    before = [number for number in snapshot_steps(workdir) if number < step]
    stored = [
        Stored(Profile(width.value or 0.0, number), _place(run, state, width))
        for number in (*before, step)
        for width in widths
    ]
    profiles = [average.profile for average in stored]
    combination = fit_profile(Profile(sigma_rel, step), profiles)
    text = (
        f"the power-function average of sigma_rel {sigma_rel:g}, made of {len(stored)} averages at "
        f"{len(before) + 1} steps; its profile is off by {combination.error:.2g} (relative, L2)"
    )
    _check_reached(combination, profiles, sigma_rel, step)
    params = _combined(workdir, state, stored, combination.weights)
    parts = [snapshot_hash(workdir, number) for number in before]
    identity = digest(" ".join([checkpoint, f"{SIGMA_REL}={sigma_rel!r}", *parts]).encode())
    return Chosen(params=params, text=text, identity=identity)


def _check_reached(
    combination: Combination, profiles: list[Profile], sigma_rel: float, step: int
) -> None:
    """Raise a RunError if a profile is not reconstructed, warn if it is roughly so."""
    if combination.error <= DOUBTFUL:
        return
    nearest = _nearest_width(profiles, sigma_rel, step)
    text = (
        f"config.average is sigma_rel={sigma_rel:g}, but the profile that the snapshots up to step "
        f"{step} make is off by {combination.error:.2g} of its norm; the nearest width that they "
        f"make within {DOUBTFUL:g} is {nearest:.3g}, and a smaller config.averages.snapshot_every "
        "reaches more"
    )
    if combination.error > REFUSED:
        raise RunError(text)
    warnings.warn(text, stacklevel=2)


def _nearest_width(profiles: list[Profile], sigma_rel: float, step: int) -> float:
    """Return the width next to one that is out of reach whose profile is made within `DOUBTFUL`."""
    good = [
        width for width in WIDTHS if fit_profile(Profile(width, step), profiles).error <= DOUBTFUL
    ]
    good += [profile.sigma_rel for profile in profiles if profile.step == step]
    return min(good, key=lambda width: abs(width - sigma_rel))


def _combined(workdir: Path, state: TrainState, stored: list[Stored], weights: np.ndarray) -> Any:
    """Return the weighted sum of stored averages, summed in float64, in the type of each array."""
    template = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state.averages
    )
    total = jax.tree.map(lambda a: np.zeros(a.shape, np.float64), state.averages[0])
    step = int(state.step)
    number = None
    averages = state.averages
    for average, weight in zip(stored, weights, strict=True):
        if average.profile.step != number:
            number = int(average.profile.step)
            last = number == step
            averages = state.averages if last else restore_snapshot(workdir, template, number)
        part = averages[average.place]
        total = jax.tree.map(partial(_add, weight), total, part)
    return jax.tree.map(
        lambda t, a: jax.device_put(t.astype(a.dtype), a.sharding), total, state.averages[0]
    )


def _add(weight: float, total: np.ndarray, array: Any) -> np.ndarray:
    """Return a sum in float64 with an array more."""
    return total + weight * np.asarray(array, np.float64)
