"""Keys of parameters: those of Flax, counted without its array."""

import jax
import numpy as np
from flax import nnx

import models


def drawn(rngs):
    """Return a key from each of its methods, in an order that mixes them."""
    keys = [rngs(), rngs.params(), rngs.default(), rngs.dropout(), rngs.params()]
    keys += [rngs.fork().params(), rngs()]
    return np.stack([jax.random.key_data(key) for key in keys])


def test_keys_are_those_of_flax():
    np.testing.assert_array_equal(drawn(models.rngs_of(7)), drawn(nnx.Rngs(7)))
    assert (drawn(models.rngs_of(7)) != drawn(models.rngs_of(8))).any()


def test_two_networks_do_not_share_a_count():
    first = models.rngs_of(0)
    second = models.rngs_of(0)
    first.params()
    first.params()
    want = jax.random.key_data(nnx.Rngs(0).params())
    np.testing.assert_array_equal(jax.random.key_data(second.params()), want)


def test_a_network_starts_with_the_parameters_of_flax_keys():
    settings = {"width": 8, "depth": 2, "embedding": "fourier", "dropout": 0.1}

    def parameters(rngs_of):
        return models.split(models.MLP((3,), **settings, rngs=rngs_of(3))).params

    jax.tree.map(np.testing.assert_array_equal, parameters(models.rngs_of), parameters(nnx.Rngs))


def test_a_traced_network_has_the_parameters_of_one_that_was_not():
    def make():
        return models.split(models.MLP((3,), width=8, depth=2, rngs=models.rngs_of(5))).params

    traced = jax.jit(make)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), traced, make())
