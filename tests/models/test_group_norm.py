"""The derivative of group normalisation in closed form is that of its definition.

It is compared forwards, backwards and a second time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.group_norm import group_norm
from models.sums import summable

GROUPS = 2
EPS = 1e-2


def definition(x, scale, bias):
    b, h, w, c = x.shape
    grouped = x.reshape(b, h * w, GROUPS, c // GROUPS)
    mean = grouped.mean((1, 3), keepdims=True)
    var = grouped.var((1, 3), keepdims=True)
    return ((grouped - mean) / jnp.sqrt(var + EPS)).reshape(x.shape) * scale + bias


def arguments(seed):
    draw = np.random.default_rng(seed).normal
    return tuple(draw(size=shape) for shape in [(3, 4, 2, 6), (1, 1, 1, 6), (1, 1, 1, 6)])


def ours(*args):
    return group_norm(*args, GROUPS, EPS)


def derivatives(norm):
    """Return the function (arguments, directions) -> derivatives of the normalisation.

    Those are its derivative along the directions, that of the gradient of a curved loss, and the
    gradient of this gradient.
    """

    def loss(*args):
        return jnp.sum(jnp.sin(norm(*args)))

    def all_of(args, directions):
        gradient = jax.grad(loss, argnums=(0, 1, 2))
        return (
            jax.jvp(norm, args, directions),
            jax.jvp(gradient, args, directions),
            jax.grad(lambda *a: jnp.sum(gradient(*a)[0] ** 2))(*args),
        )

    return jax.jit(all_of)


def test_every_derivative_is_that_of_the_definition():
    with jax.enable_x64(True):
        args, directions = arguments(0), arguments(1)
        got = derivatives(ours)(args, directions)
        want = derivatives(definition)(args, directions)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
        jax.tree.map(close, got, want)


def test_the_gradient_in_float32_is_exact_to_rounding_beside_a_large_mean():
    args = arguments(2)
    args = (args[0] + 10, *args[1:])

    def gradient(norm):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(norm(*a))), argnums=(0, 1, 2))

    with jax.enable_x64(True):
        want = gradient(definition)(*args)
    got = jax.jit(gradient(ours))(*(jnp.asarray(a, jnp.float32) for a in args))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_marking_a_sum_changes_no_bit(dtype):
    sizes = np.geomspace(1e-30, 1e30, 1000)
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000) * sizes, dtype)
    np.testing.assert_array_equal(jax.jit(summable)(x), x)
    square = lambda x: jnp.vdot(summable(x), x).astype(jnp.float32)  # noqa: E731
    ones = jnp.ones_like(x)
    np.testing.assert_array_equal(jax.grad(square)(ones), 2 * ones)
