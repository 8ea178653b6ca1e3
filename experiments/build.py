"""From a configuration to objects: each section `{name, **settings}` becomes the public object of that name.

A name is looked up in the package that exports it; there is no registry. `load` opens a run directory that training left behind.
"""

import inspect
import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Key
from ml_collections import ConfigDict

import models
import sde_lib
from sde_lib import SDE, Denoiser
from sde_lib.uncertainty import FEATURES

from . import checkpoint, data
from .configs.common import base_config
from .devices import make_mesh, replicated
from .errors import RunError
from .state import init_state, make_optimizer

UNCERTAINTY = "learned_uncertainty"  # its place among the parameters


class Network(eqx.Module):
    """A network as a pure callable (x, time signal, cond): what it is, its parameters and, in training, a dropout key."""

    graphdef: Any = eqx.field(static=True)
    params: Any
    dropout: Key[Array, ""] | None = None

    def __call__(self, x: Array, signal: Array, cond: Any) -> Array:
        rngs = None if self.dropout is None else nnx.Rngs(dropout=self.dropout)
        return models.merge(self.graphdef, self.params)(x, signal, cond, rngs=rngs)


class Facts(NamedTuple):
    """What a run has to know about its data without reading them again."""

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int
    sd: float  # of the scaled data


class Run(NamedTuple):
    """The objects of a configuration."""

    config: ConfigDict  # resolved: facts and sigma_data filled in
    facts: Facts
    sde: SDE
    split: models.Split
    tx: optax.GradientTransformation

    def parameters(self) -> dict[str, Any]:
        """Return what training starts from: the network's parameters, and beside them those of the learned uncertainty, if there is one."""
        if not self.config.objective.uncertainty:
            return self.split.params
        return {**self.split.params, UNCERTAINTY: jnp.zeros(FEATURES)}

    def denoiser(self, params: Any, dropout: Key[Array, ""] | None = None) -> Denoiser:
        """Return the denoiser with these parameters: deterministic, or for training with a dropout key."""
        graphdef = self.split.evaluate if dropout is None else self.split.train
        params = {name: value for name, value in params.items() if name != UNCERTAINTY}
        return Denoiser(Network(graphdef, params, dropout), self.sde, **self.config.denoiser)


def make(package: ModuleType, section: Any, kind: type, **extra: Any) -> Any:
    """Build the `kind` of object of `package` that a section names, from the section's settings, sections themselves or not, and `extra`.

    Raises:
        ValueError: no such name, or a setting that it does not have; the message lists the choices.
    """
    settings = {k: v for k, v in section.items() if v is not None}  # None: not given
    name = settings.pop("name", None)
    public = {
        n: c
        for n, c in vars(package).items()
        if inspect.isclass(c) and issubclass(c, kind) and not inspect.isabstract(c)
    }
    if name not in public:
        raise ValueError(
            f"{package.__name__} has no {kind.__name__} {name!r}; choose one of {', '.join(sorted(public))}"
        )
    parameters = inspect.signature(public[name].__init__).parameters.values()
    known = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    known.pop("self", None)
    takes_any = public[name].__init__ is not object.__init__ and any(
        p.kind == p.VAR_KEYWORD for p in parameters
    )
    unknown = sorted(settings.keys() - known.keys())
    if unknown and not takes_any:
        raise ValueError(
            f"{name} has no setting {', '.join(unknown)}; it takes {', '.join(k for k in known if k not in extra) or 'none'}"
        )
    given = {*settings, *extra}
    if missing := [k for k, p in known.items() if p.default is p.empty and k not in given]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    for key, value in settings.items():
        if isinstance(value, list):
            settings[key] = tuple(value)
        elif isinstance(value, ConfigDict | dict):
            settings[key] = make(package, value, kind)
    return public[name](**settings, **extra)


def make_dataset(config: ConfigDict) -> data.DataSet:
    """Return the data set of a configuration."""
    return make(data, config.data, data.DataSet)


def measure(config: ConfigDict, dataset: data.DataSet) -> Facts:
    """Measure the training data; warn where they contradict what the configuration declares."""
    found = data.statistics(dataset, config.train.split)
    facts = Facts(dataset.shape, dataset.levels, dataset.num_classes, found.sd)
    for name, value in config.facts.items():
        actual = getattr(facts, name)
        agrees = abs(value / actual - 1) < 0.1 if name == "sd" else value == actual
        if not agrees:
            warnings.warn(
                f"config.facts.{name} is {value}, but the data have {actual}; going on with the data's",
                stacklevel=2,
            )
    declared = config.denoiser.sigma_data
    if declared and abs(declared / found.sd - 1) > 0.1:
        warnings.warn(
            f"config.denoiser.sigma_data is {declared}, but the data have standard deviation {found.sd:.4f}",
            stacklevel=2,
        )
    if max(abs(found.min), abs(found.max)) > 10 * found.sd:
        warnings.warn(
            f"the data reach from {found.min:.3g} to {found.max:.3g} at standard deviation {found.sd:.3g}",
            stacklevel=2,
        )
    return facts


def build(config: ConfigDict, facts: Facts | None = None, *, abstract: bool = False) -> Run:
    """Return the objects of a configuration; without `facts` it must declare them, as a saved one does.

    `abstract`: the parameters are shapes without numbers, which takes neither time nor memory.
    """
    if facts is None:
        if not config.facts:
            raise ValueError(
                "the configuration declares no facts about its data; measure them first"
            )
        facts = Facts(**{**config.facts, "shape": tuple(config.facts.shape)})
    config = ConfigDict(config).unlock()
    config.facts = facts._asdict()
    config.denoiser.sigma_data = config.denoiser.sigma_data or facts.sd
    sde = make(sde_lib, config.sde, SDE)
    classes = facts.num_classes if config.train.conditional else 0
    if config.train.conditional and not classes:
        raise ValueError("config.train.conditional is set, but the data have no labels")

    def make_net():
        return make(
            models,
            config.net,
            nnx.Module,
            shape=facts.shape,
            num_classes=classes,
            rngs=nnx.Rngs(config.seed),
        )

    split = models.split(nnx.eval_shape(make_net))
    if not abstract:  # one program, not one for every shape; it runs once, so that a fast compilation counts for more than a fast program
        draw = jax.jit(
            lambda: models.split(make_net()).params,
            compiler_options={"xla_backend_optimization_level": 0},
        )
        split = split._replace(params=draw())
    return Run(config.lock(), facts, sde, split, make_optimizer(**config.optim))


def flops(run: Run) -> float:
    """Return the floating-point operations of one evaluation of a run's network for one example, a multiplication with addition as two.

    Counted in the program before it is compiled; nothing runs.
    """
    x, t = (
        jax.ShapeDtypeStruct((1, *run.facts.shape), "float32"),
        jax.ShapeDtypeStruct((1,), "float32"),
    )
    evaluate = jax.jit(lambda params, x, t: models.merge(run.split.evaluate, params)(x, t))
    costs: Any = evaluate.lower(run.split.params, x, t).cost_analysis()
    return float(costs["flops"])


class Loaded(NamedTuple):
    """A trained run."""

    sde: SDE
    denoiser: Denoiser  # with the averaged weights
    config: ConfigDict
    run: Run
    step: int


def load(workdir: str | Path, step: int | None = None) -> Loaded:
    """Open a run directory: the SDE, the denoiser with the averaged (EMA) weights of a checkpoint (default: the newest), the config.

    Raises:
        RunError: no run directory, or no complete and undamaged checkpoint in it.
    """
    workdir = Path(workdir)
    if not (workdir / "config.json").exists():
        raise RunError(
            f"{workdir} is no run directory: it has no config.json. Train one with --mode=train --workdir={workdir}"
        )
    run = build(with_defaults(json.loads((workdir / "config.json").read_text())), abstract=True)
    state = jax.eval_shape(
        lambda params: init_state(jax.random.key(0), params, run.tx), run.parameters()
    )
    template = checkpoint.template_of(state, replicated(make_mesh(1, 1)))
    restored = checkpoint.restore(workdir, template, step).state
    return Loaded(run.sde, run.denoiser(restored.ema), run.config, run, int(restored.step))


def with_defaults(saved: dict) -> ConfigDict:
    """Return a saved configuration; settings that are newer than it take their defaults."""
    for section, defaults in base_config().items():
        if isinstance(defaults, ConfigDict) and "name" not in defaults and section != "samplers":
            saved[section] = {**json.loads(defaults.to_json()), **saved.get(section, {})}
    for section in ("objective", "optim"):  # they have a name, and yet defaults that fit any
        saved[section] = {**json.loads(base_config()[section].to_json()), **saved[section]}
    return ConfigDict(saved)
