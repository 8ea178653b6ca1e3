"""Networks that other projects computed, and what a converted one makes of the same inputs
(../fixtures/README.md).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiments.convert.formats import abstract_network

NETWORKS = Path(__file__).parents[2] / "fixtures" / "networks"


@pytest.fixture(scope="session")
def networks():
    return NETWORKS


def _run(converted, x, t, v=None, cond=None):
    evaluate = models.split(abstract_network(converted.config)).evaluate
    net = lambda x: models.merge(evaluate, converted.ema)(x, jnp.asarray(t), cond)  # noqa: E731
    if v is None:
        return jax.jit(net)(jnp.asarray(x))
    y, pull = jax.jit(lambda x, v: (lambda y, pull: (y, pull(v)[0]))(*jax.vjp(net, x)))(
        jnp.asarray(x), jnp.asarray(v)
    )
    return y, pull


@pytest.fixture(scope="session")
def run():
    """Return the function (converted, x, t, v=None, cond=None) -> y, and the product of v with the
    Jacobian, of the averaged weights.
    """
    return _run


@pytest.fixture(scope="session")
def relative_errors():
    """Return the function (got, want) -> largest error of each sample over that sample's largest
    number.
    """

    def errors(got, want):
        got, want = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (got, want))
        return np.abs(got - want).max(1) / np.abs(want).max(1)

    return errors
