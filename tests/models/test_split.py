"""A network taken apart is static structure and a plain dict; whatever else it hides is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models


class Hiding(nnx.Module):
    """A network with one part more than a Linear."""

    def __init__(self, part):
        self.dense = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.part = part


HIDDEN = {
    "batch statistics": lambda: nnx.BatchNorm(2, rngs=nnx.Rngs(0)),
    "a random stream": lambda: nnx.Dropout(0.1, rngs=nnx.Rngs(0)),
    "a constant array": lambda: nnx.data(jnp.ones(2)),
}


@pytest.mark.parametrize("part", HIDDEN.values(), ids=HIDDEN)
def test_hidden_state_is_refused(part):
    with pytest.raises(ValueError, match="Hiding holds state that is not an nnx.Param"):
        models.split(Hiding(part()))


def test_a_pure_network_comes_back_as_it_was():
    net = models.MLP((2,), width=8, depth=1, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    split = models.split(net)
    x = jnp.ones((3, 2))
    c = jnp.zeros(3)
    again = models.merge(split.evaluate, split.params)
    np.testing.assert_array_equal(again(x, c), net(x, c))


def test_splitting_leaves_the_network_in_training():
    net = nnx.eval_shape(lambda: models.MLP((2,), width=8, depth=1, dropout=0.5, rngs=nnx.Rngs(0)))
    models.split(net)
    assert net.blocks[0].dropout.deterministic is False


def test_a_network_needs_no_memory_to_be_described():
    abstract = nnx.eval_shape(lambda: models.MLP((2,), width=8, depth=1, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(models.split(abstract).params)
    assert leaves and all(isinstance(p, jax.ShapeDtypeStruct) for p in leaves)
