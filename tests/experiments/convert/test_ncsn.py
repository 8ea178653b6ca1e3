"""NCSN and NCSNv2 compute here what the PyTorch code computes.

../fixtures/networks/ncsn.npz holds, for each of its four networks with 4 channels and 10 noise
levels, the names and shapes of its state dict, its output and the product of a vector with its
Jacobian, all in float64. The weights are those of `weight`.
"""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from experiments.convert import rules
from experiments.convert.ncsn import ncsn_rules
from models.ncsn_blocks import stretched

SIGMAS = (50.0, 0.01, 10)
SETTINGS = {
    "ncsnv2_64": {"sigmas": SIGMAS},
    "ncsnv2_128": {"sigmas": SIGMAS, "ch_mult": (1, 2, 2, 4, 4), "dilations": (1, 1, 1, 2, 4)},
    "ncsnv2_256": {
        "sigmas": SIGMAS,
        "ch_mult": (1, 2, 2, 2, 4, 4),
        "dilations": (1, 1, 1, 1, 2, 4),
    },
    "ncsn": {"levels": 10, "scale_by_sigma": False},
}
PARAMETERS = {
    "ncsnv2_64": 29_694_083,
    "ncsnv2_128": 83_445_379,
    "ncsnv2_256": 94_132_611,
    "ncsn": 30_117_635,
}


def weight(name, shape):
    """Return numbers that depend on the name alone; RandomState draws the same ones for ever."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 4:
        return np.float32(numbers / np.sqrt(np.prod(shape[1:])))
    return np.float32((("embed" in name) or name.endswith(("alpha", "gamma"))) + 0.3 * numbers)


class Case:
    """One of the four networks: what PyTorch computed (`there`), the network here as a function of
    x, and its parameters.
    """

    def __init__(self, networks, name, **settings):
        with np.load(networks / "ncsn.npz") as file:
            self.there = {
                k.removeprefix(f"{name}/"): file[k] for k in file.files if k.startswith(f"{name}/")
            }
        self.size, self.shapes = int(self.there["size"]), json.loads(str(self.there["names"]))
        settings |= {"nf": 4, "centered": False, **SETTINGS[name]}
        net = nnx.eval_shape(
            lambda: models.NCSN((self.size, self.size, 3), **settings, rngs=nnx.Rngs(0))
        )
        self.split, self.rules = models.split(net), ncsn_rules(net)
        weights = {k: weight(k, shape) for k, shape in self.shapes.items()}
        self.params = jax.tree.map(jnp.asarray, rules.read(self.rules, weights, self.split.params))

    def network(self, x):
        return models.merge(self.split.evaluate, self.params)(x, jnp.array([0.0, 4.0, 9.0]))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_its_gradient_and_its_names(name, networks, relative_errors):
    case = Case(networks, name)
    size, there, network = case.size, case.there, case.network
    x = (
        np.random.RandomState(1)
        .uniform(-0.5, 1.5, (3, 3, size, size))
        .astype(np.float32)
        .transpose(0, 2, 3, 1)
    )
    v = (
        np.random.RandomState(2)
        .standard_normal((3, 3, size, size))
        .astype(np.float32)
        .transpose(0, 2, 3, 1)
    )

    def with_gradient(x, v):
        y, pull = jax.vjp(network, x)
        return y, pull(v)[0]

    found = []
    if name != "ncsnv2_128":  # others have its blocks
        fast = {"xla_backend_optimization_level": 0}  # compiles in less than half the time
        found = (
            jax.jit(with_gradient, compiler_options=fast)(x, v)
            if size == 8
            else [jax.jit(network, compiler_options=fast)(x)]
        )
    for got, want in zip(found, (there["y_f64"], there["grad_x"]), strict=False):
        assert relative_errors(got, want.transpose(0, 2, 3, 1)).max() < 4e-6
    back = rules.write(case.rules, case.params)
    assert {k: list(a.shape) for k, a in back.items()} == case.shapes
    jax.tree.map(
        np.testing.assert_array_equal, rules.read(case.rules, back, case.params), case.params
    )


@pytest.mark.parametrize("name", ["ncsnv2_64", "ncsn"])
def test_bfloat16_is_near_at_the_largest_and_the_smallest_noise(name, networks, relative_errors):
    case = Case(networks, name, dtype="bfloat16")
    x = (
        np.random.RandomState(1)
        .uniform(-0.5, 1.5, (3, 3, case.size, case.size))
        .astype(np.float32)
        .transpose(0, 2, 3, 1)
    )
    y = jax.jit(case.network, compiler_options={"xla_backend_optimization_level": 0})(x)
    assert y.dtype == jnp.float32
    assert relative_errors(y, case.there["y_f64"].transpose(0, 2, 3, 1)).max() < 2e-2


@pytest.mark.parametrize("name", SETTINGS)
def test_the_published_sizes(name):
    """Counted in PyTorch, without their tables of sigmas; 10 noise levels."""
    net = nnx.eval_shape(lambda: models.NCSN((32, 32, 3), **SETTINGS[name], rngs=models.rngs_of(0)))
    assert sum(p.size for p in jax.tree.leaves(models.split(net).params)) == PARAMETERS[name]


def test_stretching_keeps_corners_and_straight_lines():
    row = stretched(jnp.arange(3.0)[None, :, None, None] + jnp.zeros((1, 3, 2, 1)), (5, 2))
    np.testing.assert_allclose(row[0, :, 0, 0], [0, 0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(stretched(row, (5, 2)), row)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dilations": (1, 1, 2)}, "a dilation for each"),
        ({"ch_mult": (2, 2, 2, 2)}, "the first with ch_mult 1"),
        ({"levels": -1}, "levels >= 0"),
        ({"num_classes": 3}, "takes no labels"),
        ({"nonlinearity": "tanh"}, "unknown nonlinearity 'tanh'; choose one of silu"),
        ({"dilations": (1, 1, 1, 1)}, "height and width must be multiples of 8"),
    ],
)
def test_what_cannot_be_built_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        models.NCSN((12, 12, 3), nf=4, **settings, rngs=nnx.Rngs(0))
