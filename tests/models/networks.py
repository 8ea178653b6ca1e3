"""Every public network of `models` at a small size, with parameters as training leaves them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import models

CLASSIFIERS = [models.ImageClassifier, models.VectorClassifier]  # whose output is no array like x
NETWORKS = [
    c
    for _, c in inspect.getmembers(models, inspect.isclass)
    if issubclass(c, nnx.Module) and c not in CLASSIFIERS
]
SMALLER = {  # to compile fast; optional
    "DiT": {"width": 16, "depth": 1, "heads": 2},
    "MPUNet": {
        "nf": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "head_features": 8,
    },
    "UNet": {"nf": 8, "num_res_blocks": 1},
    "MLP": {"width": 16, "depth": 2},
    "NCSN": {"nf": 4, "ch_mult": (1, 2), "dilations": (1, 1)},
}
SHAPES = [(3,), (8, 8, 2)]
CLASSES = 3


def takes(cls, setting):
    """Whether a class has a setting that not every network has."""
    return setting in inspect.signature(cls.__init__).parameters


def build(cls, **settings):
    """Return a network of the first of SHAPES that `cls` accepts, and that shape.

    It is without numbers, as drawing them takes long to compile.
    """
    settings = SMALLER.get(cls.__name__, {}) | settings
    for shape in SHAPES:
        make = functools.partial(cls, shape, **settings)
        try:
            return nnx.eval_shape(lambda make=make: make(rngs=models.rngs_of(0))), shape
        except ValueError:
            continue
    raise AssertionError(f"{cls.__name__} accepts none of {SHAPES}; add a shape that it does")


def filled(params, seed=0):
    """Return parameters such as training leaves behind: none is zero by design."""
    rng = np.random.default_rng(seed)

    def fill(p):
        if p.ndim == 1:
            return jnp.asarray(0.5 + 0.5 * rng.normal(size=p.shape), jnp.float32)
        return jnp.asarray(rng.normal(size=p.shape) / np.sqrt(np.prod(p.shape[:-1])), jnp.float32)

    return jax.tree.map(fill, params)


class Case:
    """A network with labels and dropout, its parameters, and inputs for it."""

    def __init__(self, cls, **settings):
        self.labels = None
        if takes(cls, "embedding"):
            self.labels = jnp.arange(4) % (CLASSES + 1)  # "no label" among them
            settings["num_classes"] = CLASSES
        if takes(cls, "dropout"):
            settings["dropout"] = 0.3
        net, self.shape = build(cls, **settings)
        self.split = models.split(net)
        self.params = filled(self.split.params)
        self.x = jnp.asarray(np.random.default_rng(1).normal(size=(4, *self.shape)), jnp.float32)
        self.c = jnp.linspace(-2.5, 1.5, 4)

    @functools.cached_property
    def evaluate(self):
        """The network in evaluation, a function of (x, c, labels)."""

        def evaluate(x, c, cond=None):
            return models.merge(self.split.evaluate, self.params)(x, c, cond)

        return jax.jit(evaluate)

    @functools.cached_property
    def train(self):
        """The network in training without labels, a function of the dropout key."""

        def train(key):
            net = models.merge(self.split.train, self.params)
            return net(self.x, self.c, rngs=nnx.Rngs(dropout=key))

        return jax.jit(train)

    def loss(self, params):
        """Return a loss in training."""
        net = models.merge(self.split.train, params)
        y = net(self.x, self.c, self.labels, rngs=nnx.Rngs(dropout=fast_key(3)))
        return jnp.mean((y - self.x) ** 2)

    @functools.cached_property
    def gradient(self):
        """The gradient of the loss."""
        fast = {"xla_backend_optimization_level": 0}  # compiles in two thirds of the time
        return jax.jit(jax.grad(self.loss), compiler_options=fast)(self.params)


@functools.cache
def case(cls, **settings) -> Case:
    """Return the case of a network and settings, made once."""
    return Case(cls, **settings)


def fast_key(seed):
    """Return a key whose draws compile in a fifth of the time."""
    return jax.random.key(seed, impl="rbg")


def differ(a, b) -> bool:
    """Whether every sample of `a` differs clearly from that of `b`."""
    a, b = np.asarray(a), np.asarray(b)
    size = np.abs(a).reshape(len(a), -1).max(1)
    return bool(np.all(np.abs(a - b).reshape(len(a), -1).max(1) > 1e-3 * size))
