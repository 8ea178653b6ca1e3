"""Counting evaluations while tracing."""

import jax
import jax.numpy as jnp
import pytest

from sde_lib import count_evaluations, record_evaluations, repeat_evaluations


def test_loops_multiply_and_nest():
    def body(carry, _):
        record_evaluations()
        with repeat_evaluations(3):
            record_evaluations()
        return carry, None

    def walk(x):
        record_evaluations()
        with repeat_evaluations(10):
            return jax.lax.scan(body, x, length=10)[0]

    with count_evaluations() as tally:
        jax.eval_shape(walk, jnp.zeros(()))
    assert tally.total == 1 + 10 * (1 + 3)


def test_only_what_is_inside_counts():
    record_evaluations()
    with count_evaluations() as outer:
        record_evaluations(2)
        with repeat_evaluations(5), count_evaluations() as inner:
            record_evaluations()
        with pytest.raises(RuntimeError), repeat_evaluations(7):
            raise RuntimeError
        record_evaluations()
    record_evaluations()
    assert (outer.total, inner.total) == (3, 1)
