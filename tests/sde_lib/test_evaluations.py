"""Counting evaluations while tracing."""

import jax
import jax.numpy as jnp
import pytest

from sde_lib import counting, evaluated, repeated


def test_loops_multiply_and_nest():
    def body(carry, _):
        evaluated()
        with repeated(3):
            evaluated()
        return carry, None

    def walk(x):
        evaluated()
        with repeated(10):
            return jax.lax.scan(body, x, length=10)[0]

    with counting() as tally:
        jax.eval_shape(walk, jnp.zeros(()))
    assert tally.total == 1 + 10 * (1 + 3)


def test_only_what_is_inside_counts():
    evaluated()
    with counting() as outer:
        evaluated(2)
        with repeated(5), counting() as inner:
            evaluated()
        with pytest.raises(RuntimeError), repeated(7):
            raise RuntimeError
        evaluated()
    evaluated()
    assert (outer.total, inner.total) == (3, 1)
