"""Parallel in time gives what the sequential walk gives, in fewer calls one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from samplers import (
    DDIM,
    Ancestral,
    DPMpp2M,
    EulerMaruyama,
    draw_prior,
    grids,
    sample,
    sample_parallel,
)
from sde_lib import VP, GaussianMixture

KEY, SDE = jax.random.key(0), VP()
DATA = GaussianMixture(
    [0.3, 0.7],
    [[-0.8, 0.2], [0.5, -0.1]],
    [[[0.04, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.06]]],
)
DENOISE, X = DATA.denoiser(SDE), draw_prior(KEY, SDE, (7, 2))


def both(sampler, steps, **settings):
    ts = grids.quadratic(SDE, steps)
    expected = sample(KEY, sampler, DENOISE, SDE, ts, X, denoise_last=False).x
    return sample_parallel(KEY, sampler, DENOISE, SDE, ts, X, **settings), expected


@pytest.mark.parametrize(
    "sampler", [DDIM(), EulerMaruyama(), Ancestral()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("window", [5, None])
def test_iterated_to_the_end_it_is_the_sequential_walk(sampler, window):
    result, expected = both(sampler, 16, window=window, tolerance=0.0)
    np.testing.assert_allclose(result.x, expected, atol=1e-5)  # float32, summed in another order
    assert int(result.depth) <= 16 and int(result.nfe) == int(result.depth) * (window or 16)


def test_to_a_tolerance_a_hundred_steps_take_a_fifth_of_the_sequential_calls():
    result, expected = both(DDIM(), 100, tolerance=1e-3)
    assert int(result.depth) <= 20
    np.testing.assert_allclose(result.x, expected, atol=2e-3)


@pytest.fixture
def wide():
    """The start in float64, in which programs that sum in another order agree to twelve digits."""
    with jax.enable_x64(True):
        yield jnp.asarray(X, jnp.float64)


def test_a_sample_depends_neither_on_its_batch_nor_on_the_devices(wide):
    ts, mesh = (
        grids.quadratic(SDE, 16),
        jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]),
    )
    whole = sample_parallel(KEY, EulerMaruyama(), DENOISE, SDE, ts, wide).x
    index = jnp.array([5, 2])
    part = sample_parallel(KEY, EulerMaruyama(), DENOISE, SDE, ts, wide[index], index=index).x
    np.testing.assert_allclose(part, whole[index], rtol=0, atol=1e-12)
    split = jax.device_put((wide[:6], jnp.arange(6)), NamedSharding(mesh, PartitionSpec("batch")))
    shared = sample_parallel(KEY, EulerMaruyama(), DENOISE, SDE, ts, split[0], index=split[1]).x
    np.testing.assert_allclose(shared, whole[:6], rtol=0, atol=1e-12)


def test_the_steps_of_a_window_are_spread_over_the_devices(wide):
    ts, mesh = (
        grids.quadratic(SDE, 16),
        jax.make_mesh((2,), ("time",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]),
    )
    seen = set()

    def watched(x, t, cond):
        jax.debug.inspect_array_sharding(
            x, callback=lambda sharding: seen.add(sharding.num_devices)
        )
        return DENOISE(x, t, cond)

    whole, x = (
        sample_parallel(KEY, EulerMaruyama(), DENOISE, SDE, ts, wide),
        jax.device_put(wide, NamedSharding(mesh, PartitionSpec())),
    )
    result = sample_parallel(KEY, EulerMaruyama(), watched, SDE, ts, x, mesh=mesh)
    np.testing.assert_allclose(result.x, whole.x, rtol=0, atol=1e-12)
    assert int(result.depth) == int(whole.depth) and seen == {2}
    with pytest.raises(ValueError, match="2 devices cannot share a window of 5 steps"):
        sample_parallel(KEY, EulerMaruyama(), DENOISE, SDE, ts, x, window=5, mesh=mesh)


def test_what_cannot_be_iterated_is_refused():
    with pytest.raises(ValueError, match="steps depend on each other"):
        both(DPMpp2M(), 8)
    with pytest.raises(ValueError, match="window of 1 to 8 steps, got 9"):
        both(DDIM(), 8, window=9)
