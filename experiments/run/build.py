"""From a configuration to objects: each section `{name, **settings}` becomes the public object of that name.

Only what every command needs is imported with this module.
"""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key
from ml_collections import ConfigDict

import models
import sde_lib
from sde_lib import SDE, Denoiser
from sde_lib.loss_uncertainty import FEATURES

from ..storage.saved_config import with_defaults as with_defaults
from .objects import make as make
from .objects import naming
from .optimizers import make_optimizer

if TYPE_CHECKING:
    import optax

    from .. import data

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
    sd: float  # of the model values

    @property
    def codec(self) -> "data.Codec":
        """How raw values become model values."""
        from .. import data

        return data.codec_of(self.levels)


class Run(NamedTuple):
    """The objects of a configuration."""

    config: ConfigDict  # resolved: facts and sigma_data filled in
    facts: Facts
    sde: SDE
    split: models.Split
    tx: "optax.GradientTransformation"

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


def make_dataset(config: ConfigDict) -> "data.DataSet":
    """Return the data set of a configuration."""
    from .. import (
        data,
    )  # with the libraries that read them, which a dry run of declared facts does not need

    with naming("config.data"):
        return make(data, config.data, data.DataSet)


def measure(config: ConfigDict, dataset: "data.DataSet") -> Facts:
    """Measure the training data; warn where they contradict what the configuration declares."""
    from .. import data

    with naming("config.train.split"):
        dataset.source(config.train.split)
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
        if missing := [name for name in Facts._fields if name not in config.facts]:
            raise ValueError(
                f"config.facts lacks {', '.join(missing)}; declare all or none of them"
            )
        facts = Facts(**{**config.facts, "shape": tuple(config.facts.shape)})
    config = ConfigDict(config).unlock()
    config.facts = facts._asdict()
    config.denoiser.sigma_data = config.denoiser.sigma_data or facts.sd
    with naming("config.sde"):
        sde = make(sde_lib, config.sde, SDE)
    if config.train.conditional and not facts.num_classes:
        raise ValueError("config.train.conditional is set, but the data have no labels")
    tx = make_optimizer(**config.optim)
    with naming("config.net"):
        split = models.split(nnx.eval_shape(lambda: _make_net(config, facts)))
    run = Run(config.lock(), facts, sde, split, tx)
    return run if abstract else with_parameters(run)


def with_parameters(run: Run) -> Run:
    """Return a run that was built abstractly with the parameters that training starts from."""
    # one program, not one for every shape; it runs once, so that a fast compilation counts for more than a fast program
    draw = jax.jit(
        lambda: models.split(_make_net(run.config, run.facts)).params,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return run._replace(split=run.split._replace(params=draw()))


def _make_net(config: ConfigDict, facts: Facts) -> nnx.Module:
    return make(
        models,
        config.net,
        nnx.Module,
        shape=facts.shape,
        num_classes=facts.num_classes if config.train.conditional else 0,
        rngs=models.rngs_of(config.seed),
    )


def flops(run: Run) -> float | None:
    """Return the floating-point operations of one evaluation of a run's network for one example, a multiplication with addition as two.

    Counted in the program before it is compiled; nothing runs. XLA counts for its CPU backend only: None where JAX_PLATFORMS excludes it.
    """
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), run.split.params)
    x = jax.ShapeDtypeStruct((1, *run.facts.shape), "float32")
    t = jax.ShapeDtypeStruct((1,), "float32")
    evaluate = jax.jit(lambda params, x, t: models.merge(run.split.evaluate, params)(x, t))
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    with jax.default_device(cpu):
        costs: Any = evaluate.lower(params, x, t).cost_analysis()
    return float(costs["flops"])
