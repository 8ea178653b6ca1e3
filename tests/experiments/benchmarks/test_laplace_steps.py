"""Sums over the Laplace kernel in O(n), against the same sums term by term."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.laplace_steps import LOWEST, step_between

SCALE = 0.25
N = 12


def term_by_term(spacing, offset, nearest, message):
    """Return the sums, each node weighed as the rule of Euler and Maclaurin weighs it."""
    places = np.arange(N)
    steps = np.abs(offset + spacing * (places[:, None] - places[None]))  # (to, from)
    kernel = np.exp((nearest - steps) / SCALE)
    # The kink takes h^2 B_2(theta) / 2 times the jump of the slope, 2 / b, off the two nodes.
    for to in places:
        around = np.flatnonzero(steps[to] < spacing)
        for node in around:
            theta = steps[to, node] / spacing
            bernoulli = theta**2 - theta + 1 / 6
            kernel[to, node] -= spacing / SCALE * bernoulli * (1 - theta) * np.exp(nearest / SCALE)
    return spacing / (2 * SCALE) * (kernel @ message + np.exp(LOWEST) * message.sum())


# On a node, between two, with a partial overlap at either end, beyond either end, far beyond.
@pytest.mark.parametrize(
    "cells", (0.0, 0.3, -0.3, 4.6, -7.2, 10.9, -11.5, 12.4, -12.4, 500.3, -90.0)
)
@pytest.mark.parametrize("spacing", (0.002, 0.06))
def test_a_message_is_what_the_sums_say(cells, spacing):
    message = np.random.default_rng(0).exponential(size=N)
    offset = cells * spacing
    between = offset + spacing * np.arange(1 - N, N)
    nearest = np.min(np.abs(between))
    with jax.enable_x64(True):
        step = step_between(jnp.asarray(SCALE), jnp.asarray(spacing), offset, nearest, N)
        got = step.take(jnp.asarray(message))
        back = step_between(jnp.asarray(SCALE), jnp.asarray(spacing), -offset, nearest, N)
        returned = back.take(jnp.asarray(message))
    np.testing.assert_allclose(got, term_by_term(spacing, offset, nearest, message), rtol=1e-10)
    # The step back is the transpose.
    columns = [term_by_term(spacing, offset, nearest, unit) for unit in np.eye(N)]
    np.testing.assert_allclose(returned, np.array(columns) @ message, rtol=1e-10)


def test_steps_are_positive_and_finite_in_float32_however_far():
    message = jnp.ones(N)
    for offset in (1e-6, 1.0, 50.0, 1e4):
        nearest = max(0.0, offset - (N - 1) * 1e-3)
        step = step_between(jnp.asarray(SCALE), jnp.asarray(1e-3), offset, nearest, N)
        got = step.take(message)
        assert got.dtype == np.float32
        assert np.all(np.isfinite(got)) and np.all(np.asarray(got) > 0)
