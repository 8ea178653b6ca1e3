"""From the section `config.guidance` to a denoise function that is steered while samples are drawn.

`{name, **settings}` names a class of `sde_lib.guidance`; {} is no guidance. What a class needs beside
numbers comes from run directories: `classifier` of `ClassifierGuidance` names one that trained a
classifier (`objective.name` = "classifier"), `weaker` of `Autoguidance` one of a weaker network, of
which `weaker_step` is the step of the checkpoint, by default the newest. `threshold` is a section of
its own, `{name, **settings}`, whose class wraps the guided estimate.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import sde_lib
from sde_lib import Denoise, Guidance

from ..errors import RunError
from .build import Run
from .loading import Loaded, load
from .objects import find_class, make, naming

SECTION = "config.guidance"
OF_OTHER_RUNS = ("classifier", "weaker", "weaker_step")


class Guided(NamedTuple):
    """A denoise function to draw samples with, and what its guidance is, as plain JSON."""

    denoise: Denoise
    identity: dict[str, Any]


class _Sources(NamedTuple):
    """What guidance takes from other runs."""

    log_prob: Callable | None = None
    weaker: Denoise | None = None
    identity: dict[str, Any] = {}


def guided(loaded: Loaded) -> Guided:
    """Return the denoise function of a run with the guidance of its configuration.

    Raises:
        RunError: another run that it names cannot be used.
        ValueError: a setting is wrong.
    """
    section = loaded.run.config.guidance
    if not section:
        return Guided(denoise=loaded.denoiser, identity={})
    with naming(SECTION):
        sources = _open_sources(loaded.run)
        denoise = _steered(loaded.run, loaded.denoiser, sources)
    settings = json.loads(section.to_json_best_effort())
    return Guided(denoise=denoise, identity=settings | sources.identity)


def check_guidance(run: Run) -> None:
    """Raise a ValueError unless the guidance of a configuration can be built; open no other run."""
    if not run.config.guidance:
        return
    with naming(SECTION):
        denoise = run.denoiser(run.split.params)
        _steered(run, denoise, _Sources(log_prob=denoise, weaker=denoise))


def _steered(run: Run, denoise: Denoise, sources: _Sources) -> Denoise:
    """Return the denoise function that a configuration asks for."""
    section = dict(run.config.guidance)
    threshold = section.pop("threshold", None)
    needed = _settings_of_other_runs(run)
    for name in OF_OTHER_RUNS:
        section.pop(name, None)
    available = {"sde": run.sde, "log_prob": sources.log_prob, "weaker": sources.weaker}
    _check_conditions(run, needed)
    steered = _make(section, denoise, available)
    if threshold is None:
        return steered
    with naming(f"{SECTION}.threshold"):
        return _make(threshold, steered, available)


def _make(section: Any, denoise: Denoise, available: dict[str, Any]) -> Guidance:
    """Return the guidance that a section names around a denoise function."""
    parameters = _parameters(section)
    extra = {name: value for name, value in available.items() if name in parameters}
    return make(sde_lib, section, Guidance, denoise=denoise, **extra)


def _parameters(section: Any) -> Any:
    """Return the parameters of the class that a section names."""
    cls = find_class(sde_lib, section.get("name"), Guidance)
    return inspect.signature(cls).parameters


def _settings_of_other_runs(run: Run) -> tuple[str, ...]:
    """Return which runs the guidance takes: "classifier", "weaker", both or none.

    Raises:
        ValueError: one is missing, or given and not taken.
    """
    section = run.config.guidance
    name = section.get("name")
    parameters = _parameters(section)
    settings = {"classifier": "log_prob", "weaker": "weaker"}
    needed = tuple(key for key, parameter in settings.items() if parameter in parameters)
    for key in needed:
        if not isinstance(section.get(key), str) or not section[key]:
            raise ValueError(
                f"{name} needs {key}, the run directory of another network: "
                f"--{SECTION}.{key}=runs/..."
            )
    for key in OF_OTHER_RUNS:
        if key in section and key.partition("_")[0] not in needed:
            raise ValueError(f"{name} has no setting {key}; leave it out")
    return needed


def _check_conditions(run: Run, needed: tuple[str, ...]) -> None:
    """Raise a ValueError if a run has not the conditions that its guidance works on."""
    section = run.config.guidance
    name = section.get("name")
    conditional = run.config.train.conditional
    if "null" in _parameters(section) and not conditional:
        raise ValueError(
            f"{name} compares a network with and without its condition, but this run is not "
            "conditional; train one with config.train.conditional, or guide it by a classifier"
        )
    if "null" in _parameters(section) and not run.config.train.label_dropout:
        raise ValueError(
            f"{name} compares a network with and without its condition, but this run was never "
            "trained without (config.train.label_dropout is 0); train one that was"
        )
    if "classifier" not in needed:
        return
    if conditional and run.facts.cond_shape is not None:
        raise ValueError(f"{name} works on classes, but this run is given other conditions as well")
    if section.get("conditional") and not conditional:
        raise ValueError(f"{name} is conditional, but this run is not; leave conditional out")


def _open_sources(run: Run) -> _Sources:
    """Open the other runs that the guidance of a configuration names."""
    section = run.config.guidance
    needed = _settings_of_other_runs(run)
    log_prob = None
    weaker = None
    identity = {}
    if "classifier" in needed:
        other = _open(section.classifier, "classifier", run)
        if other.classifier is None:
            raise RunError(
                f"{SECTION}.classifier={section.classifier} is a run of a denoiser; name one that "
                "was trained with config.objective.name=classifier, such as "
                "experiments/configs/digits_classifier.py"
            )
        log_prob = other.classifier.log_prob
        identity["classifier_weights"] = other.weights
    if "weaker" in needed:
        other = _open(section.weaker, "weaker", run, section.get("weaker_step"))
        if other.denoiser is None:
            raise RunError(
                f"{SECTION}.weaker={section.weaker} is a run of a classifier; name one of a denoiser"
            )
        if other.config.train.conditional != run.config.train.conditional:
            raise RunError(
                f"{SECTION}.weaker={section.weaker} has config.train.conditional = "
                f"{other.config.train.conditional}, this run {run.config.train.conditional}; both "
                "need the same conditions"
            )
        weaker = other.denoiser
        identity["weaker_weights"] = other.weights
    return _Sources(log_prob=log_prob, weaker=weaker, identity=identity)


def _open(workdir: str, setting: str, run: Run, step: Any = None) -> Loaded:
    """Return another run, after checking that it is of the same process and kind of data."""
    place = f"{SECTION}.{setting}={workdir}"
    try:
        other = load(workdir, step)
    except RunError as error:
        raise RunError(f"{place}: {error}") from error
    if other.sde != run.sde:
        raise RunError(
            f"{place} was trained with the process {_text(other.config.sde)}, this run with "
            f"{_text(run.config.sde)}; noise levels have to be the same"
        )
    for fact in ("shape", "levels", "num_classes", "cond_shape"):
        theirs = getattr(other.run.facts, fact)
        ours = getattr(run.facts, fact)
        if theirs != ours:
            raise RunError(
                f"{place} was trained on data with {fact} = {theirs}, this run on data with {ours}; "
                "name a run on the same data"
            )
    return other


def _text(section: ConfigDict) -> str:
    """Return a section as JSON."""
    return section.to_json_best_effort()
