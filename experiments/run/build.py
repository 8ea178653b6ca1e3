"""From a configuration to objects.

Each section `{name, **settings}` becomes the public object of that name. Only what every command
needs is imported with this module.
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
from sde_lib import SDE, Classifier, Denoiser
from sde_lib.loss_uncertainty import FEATURES

from .conditions import network_settings
from .objects import make as make
from .objects import naming
from .optimizers import make_optimizer

if TYPE_CHECKING:
    import optax

    from .. import data

UNCERTAINTY = "learned_uncertainty"  # its place among the parameters
CLASSIFIER = "classifier"  # the name of its objective


class Network(eqx.Module):
    """A network as a pure callable (x, time signal, cond, last estimate), with its parameters.

    In training it has a dropout key; without one it is deterministic.
    """

    graphdef: Any = eqx.field(static=True)
    params: Any
    dropout: Key[Array, ""] | None = None

    def __call__(self, x: Array, signal: Array, cond: Any, *last: Array) -> Array:
        """Return the network's output (batch, ...) for `x` (batch, ...) and `signal` (batch,).

        With self-conditioning it is given its last estimate (batch, ...), too.
        """
        rngs = None if self.dropout is None else nnx.Rngs(dropout=self.dropout)
        return models.merge(self.graphdef, self.params)(x, signal, cond, *last, rngs=rngs)


class DataFacts(NamedTuple):
    """What a run has to know about its data without reading them again."""

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int
    sd: float  # of the model values
    cond_shape: tuple[int, ...] | None = None  # of the condition beside an example

    @property
    def codec(self) -> "data.Codec":
        """How raw values become model values."""
        from .. import data

        return data.codec_of(self.levels)


class Run(NamedTuple):
    """The objects of a configuration."""

    config: ConfigDict  # resolved: facts and sigma_data filled in
    facts: DataFacts
    sde: SDE
    split: models.Split
    tx: "optax.GradientTransformation"

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that training starts from.

        They are the network's, and those of the learned uncertainty where the objective has one.
        """
        if not self.config.objective.uncertainty:
            return self.split.params
        return {**self.split.params, UNCERTAINTY: jnp.zeros(FEATURES)}

    @property
    def classifies(self) -> bool:
        """Whether this run trains a classifier of noisy data, not a denoiser."""
        return self.config.objective.name == CLASSIFIER

    @property
    def self_conditioning(self) -> bool:
        """Whether the network is given its last estimate of the clean data."""
        return bool(self.config.net.get("self_conditioning", False))

    def denoiser(self, params: Any, dropout: Key[Array, ""] | None = None) -> Denoiser:
        """Return the denoiser with these parameters; it is deterministic without a dropout key.

        Raises:
            ValueError: the run trains a classifier.
        """
        if self.classifies:
            raise ValueError(
                "this run trained a classifier, which denoises nothing; name it as "
                "config.guidance.classifier of a run that does"
            )
        return Denoiser(
            self._network(params, dropout),
            self.sde,
            **self.config.denoiser,
            self_conditioning=self.self_conditioning,
        )

    def classifier(self, params: Any, dropout: Key[Array, ""] | None = None) -> Classifier:
        """Return the classifier with these parameters; see `denoiser`.

        Raises:
            ValueError: the run trains a denoiser.
        """
        if not self.classifies:
            raise ValueError(
                f"this run trained a denoiser (config.objective.name = "
                f"{self.config.objective.name!r}), no classifier"
            )
        settings = self.config.denoiser
        network = self._network(params, dropout)
        return Classifier(network, self.sde, settings.inputs, settings.sigma_data)

    def _network(self, params: Any, dropout: Key[Array, ""] | None) -> Network:
        """Return the network with these parameters."""
        graphdef = self.split.evaluate if dropout is None else self.split.train
        params = {name: value for name, value in params.items() if name != UNCERTAINTY}
        return Network(graphdef, params, dropout)


def make_dataset(config: ConfigDict) -> "data.DataSet":
    """Return the data set of a configuration."""
    # The libraries that read data take time to import; a dry run of declared facts needs none.
    from .. import data

    with naming("config.data"):
        return make(data, config.data, data.DataSet)


def measure_facts(config: ConfigDict, dataset: "data.DataSet") -> DataFacts:
    """Return the facts of the training data; warn where the configuration declares other ones."""
    from .. import data

    with naming("config.train.split"):
        dataset.source(config.train.split)
    statistics = data.statistics(dataset, config.train.split)
    facts = DataFacts(
        shape=dataset.shape,
        levels=dataset.levels,
        num_classes=dataset.num_classes,
        sd=statistics.sd,
        cond_shape=dataset.cond_shape,
    )
    _warn_of_contradictions(config, facts)
    if max(abs(statistics.min), abs(statistics.max)) > 10 * statistics.sd:
        warnings.warn(
            f"the data reach from {statistics.min:.3g} to {statistics.max:.3g} at standard "
            f"deviation {statistics.sd:.3g}",
            stacklevel=2,
        )
    return facts


def _warn_of_contradictions(config: ConfigDict, facts: DataFacts) -> None:
    """Warn where a configuration declares other facts than the data have."""
    for name, value in config.facts.items():
        actual = getattr(facts, name)
        agrees = abs(value / actual - 1) < 0.1 if name == "sd" else value == actual
        if not agrees:
            warnings.warn(
                f"config.facts.{name} is {value}, but the data have {actual}; going on with the "
                "data's",
                stacklevel=3,
            )
    declared = config.denoiser.sigma_data
    if declared and abs(declared / facts.sd - 1) > 0.1:
        warnings.warn(
            f"config.denoiser.sigma_data is {declared}, but the data have standard deviation "
            f"{facts.sd:.4f}",
            stacklevel=3,
        )


def build(config: ConfigDict, facts: DataFacts | None = None, *, abstract: bool = False) -> Run:
    """Return the objects of a configuration.

    Args:
        config: a configuration, which need not be resolved.
        facts: those of its data; None: the configuration declares them, as a saved one does.
        abstract: make parameters that are shapes without numbers, which takes neither time nor
            memory.

    Raises:
        ValueError: facts are missing, or an object cannot be built with its settings.
    """
    if facts is None:
        facts = _declared_facts(config)
    config = ConfigDict(config).unlock()
    config.facts = facts._asdict()
    config.denoiser.sigma_data = config.denoiser.sigma_data or facts.sd
    with naming("config.sde"):
        sde = make(sde_lib, config.sde, SDE)
    if config.train.conditional and not facts.num_classes and facts.cond_shape is None:
        raise ValueError(
            "config.train.conditional is set, but the data have no labels and no conditions"
        )
    if config.objective.name == CLASSIFIER:
        _check_classifies(config, facts)
    _check_augments(config, facts)
    tx = make_optimizer(**config.optim)
    with naming("config.net"):
        split = models.split(nnx.eval_shape(lambda: _make_net(config, facts)))
    run = Run(config=config.lock(), facts=facts, sde=sde, split=split, tx=tx)
    return run if abstract else with_parameters(run)


def _declared_facts(config: ConfigDict) -> DataFacts:
    """Return the facts that a configuration declares; raise a ValueError if it lacks any."""
    if not config.facts:
        raise ValueError("the configuration declares no facts about its data; measure them first")
    needed = [name for name in DataFacts._fields if name not in DataFacts._field_defaults]
    if missing := [name for name in needed if name not in config.facts]:
        raise ValueError(f"config.facts lacks {', '.join(missing)}; declare all or none of them")
    facts = DataFacts(**{**config.facts, "shape": tuple(config.facts.shape)})
    if facts.cond_shape is not None:
        facts = facts._replace(cond_shape=tuple(facts.cond_shape))
    return facts


def _check_classifies(config: ConfigDict, facts: DataFacts) -> None:
    """Raise a ValueError if a classifier cannot be trained with a configuration."""
    if facts.num_classes < 2:
        raise ValueError(
            f"config.objective.name is {CLASSIFIER}, which needs data with two or more classes, "
            f"but these have {facts.num_classes}"
        )
    for setting, given in {
        "train.conditional": config.train.conditional,
        "train.augment": config.train.augment,
        "objective.uncertainty": config.objective.uncertainty,
    }.items():
        if given:
            raise ValueError(
                f"config.{setting} is set, but a classifier has no such thing; unset it"
            )


def _check_augments(config: ConfigDict, facts: DataFacts) -> None:
    """Raise a ValueError if data shall be augmented that are no images."""
    if config.train.augment and len(facts.shape) != 3:
        raise ValueError(
            f"config.train.augment is {config.train.augment}, but only images (height, width, "
            f"channels) can be augmented, and these data have shape {facts.shape}; set it to 0"
        )


def with_parameters(run: Run, shardings: Any = None) -> Run:
    """Return a run that was built abstractly with the parameters that training starts from.

    `shardings`: where they are to be, as a tree like them; no device ever holds more of them.
    """
    # one program, not one for every shape; it runs once, so that a fast compilation counts for more
    # than a fast program
    draw = jax.jit(
        lambda: models.split(_make_net(run.config, run.facts)).params,
        out_shardings=shardings,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return run._replace(split=run.split._replace(params=draw()))


def _make_net(config: ConfigDict, facts: DataFacts) -> nnx.Module:
    if config.objective.name == CLASSIFIER:
        settings = {"num_classes": facts.num_classes}
    else:
        settings = network_settings(facts, config.train)
    return make(
        models,
        config.net,
        nnx.Module,
        shape=facts.shape,
        **settings,
        rngs=models.rngs_of(config.seed),
    )


def flops(run: Run) -> float | None:
    """Return the floating-point operations of one evaluation of a run's network for one example.

    A multiplication with addition counts as two. XLA counts them in the program before it is
    compiled, and nothing runs. It does so for its CPU backend only: the result is None where
    JAX_PLATFORMS excludes that.
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
