"""`expand` and `in_float64`, on which everything broadcasts and plans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import EDM, VE, VP, Rectified, expand, in_float64
from sde_lib.arrays import expand_time


def test_expand_appends_axes_and_takes_the_precision_of_the_state_but_float32_at_least():
    x = jnp.ones((3, 2, 5), jnp.bfloat16)
    assert expand(0.5, x).shape == () and expand(0.5, x).dtype == jnp.float32
    for kind in (jnp.int32, jnp.uint8, jnp.bool_, jnp.float16, jnp.float32):
        assert expand(0.5, x.astype(kind)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert expand(0.5, x.astype(jnp.float64)).dtype == jnp.float64
        assert expand(np.float64(0.5), x.astype(jnp.float32)).dtype == jnp.float32
    assert expand(np.array([0.1, 0.2, 0.3]), x).shape == (3, 1, 1)


@pytest.mark.parametrize("t", [np.ones((3, 1)), np.ones(2), np.ones((1, 3))])
def test_expand_refuses_what_would_broadcast_by_accident(t):
    with pytest.raises(ValueError, match="pass one time, or one per sample"):
        expand(t, jnp.ones((3, 3)))


def test_in_float64_is_exact_also_inside_jit_and_leaves_x64_off():
    t = np.geomspace(1e-5, 1, 9)
    exact = np.exp(np.log(0.01) + t * np.log(5000))
    held = []

    @jax.jit
    def plan(x):
        held.append(in_float64(VE().marginal, t)[1])
        return x * jnp.asarray(held[0], x.dtype).sum()

    assert plan(jnp.ones(())).dtype == jnp.float32
    assert type(held[0]) is np.ndarray and held[0].dtype == np.float64
    np.testing.assert_allclose(held[0], exact, rtol=1e-13)
    assert jnp.ones(()).dtype == jnp.float32


def test_in_float64_traces_what_is_being_learned():
    grid = jax.grad(lambda t: in_float64(VP().marginal, t)[1])(0.3)
    schedule = jax.grad(lambda b: in_float64(VP(beta_max=b).marginal, jnp.float32(0.3))[1])(20.0)
    step = 1e-6

    def sigma(t, b):
        return in_float64(VP(beta_max=b).marginal, t)[1]

    np.testing.assert_allclose(
        grid, (sigma(0.3 + step, 20.0) - sigma(0.3 - step, 20.0)) / (2 * step), rtol=1e-5
    )
    np.testing.assert_allclose(
        schedule, (sigma(0.3, 20 + step) - sigma(0.3, 20 - step)) / (2 * step), rtol=1e-5
    )


def test_in_float64_knows_its_result_inside_any_transformation(sde):
    """Also through a function with a derivative of its own, which `time` is."""
    expected = np.asarray(in_float64(sde.time, -1.0))

    def known(x):
        t = in_float64(sde.time, -1.0)
        assert type(t) is np.ndarray and t.dtype == np.float64
        np.testing.assert_array_equal(t, expected)
        return x * float(t)

    x = jnp.arange(3.0)
    for transformed in (jax.vmap(known), jax.jit(known), jax.vmap(jax.grad(known))):
        transformed(x)
    jax.lax.map(known, x)


def test_in_float64_keeps_whole_numbers_whole():
    assert in_float64(lambda n, t: np.arange(n) * t, 3, 0.5).tolist() == [0, 0.5, 1.0]


def test_a_noise_level_is_sigma_over_alpha_and_has_its_time_back():
    """Of EDM sigma itself, of the rectified flow t / (1 - t); beyond the ends the nearer one."""
    t = jnp.asarray([1e-3, 0.2, 0.7])
    np.testing.assert_allclose(EDM().noise_level(t), EDM().marginal(t)[1], rtol=1e-5)
    np.testing.assert_allclose(Rectified().noise_level(t), t / (1 - t), rtol=1e-5)
    for sde in (VP(), VE(), EDM(), Rectified()):
        np.testing.assert_allclose(sde.time_of_level(sde.noise_level(t)), t, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(sde.time_of_level([1e-30, 1e30]), [0, 1], atol=1e-9)
    assert np.isinf(Rectified().noise_level(1.0))


@pytest.mark.parametrize("t", [1.0001, -1e-4, [0.5, 1.00001], 999])
def test_a_time_beyond_the_ends_is_refused_by_its_value(t):
    with pytest.raises(ValueError, match="need times from 0 .data. to 1 .noise., got"):
        expand_time(np.asarray(t), jnp.ones((2, 3)))


def test_what_rounding_puts_beyond_the_ends_is_the_end():
    t = np.array([1 + 6e-8, -6e-8])  # a unit in the last place of float32, and less
    np.testing.assert_array_equal(expand_time(t, jnp.ones((2, 1)))[:, 0], [1, 0])
