"""Networks that are given their last estimate of the clean data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from models.conditions import with_last
from tests.models.networks import NETWORKS, build, differ, filled, takes

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 2)), jnp.float32)
SMALL = {"UNet": {"ch_mult": (1,)}, "NCSN": {"scale_by_sigma": False}}
TAKING = [cls for cls in NETWORKS if takes(cls, "self_conditioning")]


@pytest.mark.parametrize("cls", TAKING, ids=lambda cls: cls.__name__)
def test_a_network_takes_its_last_estimate(cls):
    net, shape = build(cls, **SMALL.get(cls.__name__, {}), self_conditioning=True)
    split = models.split(net)
    params = filled(split.params)
    x, last = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, *shape)), jnp.float32)
    c = jnp.linspace(-1, 1, 3)

    @jax.jit
    def call(last):
        return models.merge(split.evaluate, params)(x, c, None, last)

    assert call(last).shape == x.shape
    assert differ(call(last), call(0 * last))
    shapes = jax.eval_shape(lambda: models.merge(split.evaluate, params)(x, c))
    assert shapes.shape == x.shape
    plain = models.split(build(cls, **SMALL.get(cls.__name__, {}))[0])
    with pytest.raises(ValueError, match="build it with self_conditioning=True"):
        jax.eval_shape(lambda: models.merge(plain.evaluate, filled(plain.params))(x, c, None, last))


def test_the_last_estimate_stands_behind_all_other_channels():
    inputs = jnp.concatenate([X, 7 * X[..., :1]], axis=-1)
    both = with_last(X, inputs, 3 * X, True)
    np.testing.assert_array_equal(both, jnp.concatenate([inputs, 3 * X], axis=-1))
    nothing = with_last(X, inputs, None, True)
    np.testing.assert_array_equal(nothing, jnp.concatenate([inputs, 0 * X], axis=-1))
    assert with_last(X, inputs, None, False) is inputs
    with pytest.raises(ValueError, match=r"a last estimate is float32\(3, 4, 4, 1\), expected"):
        with_last(X, inputs, X[..., :1], True)
