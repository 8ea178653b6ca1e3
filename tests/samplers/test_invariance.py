"""A sample belongs to its key and index: the same noise, bitwise, and the same end at any batch size and on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from samplers import (
    SEEDS,
    AnnealedLangevin,
    PredictorCorrector,
    base,
    draw_prior,
    grids,
    probability_flow,
    sample,
)
from sde_lib import VE, VP, Gaussian

KEY, N, D = jax.random.key(7), 64, 16
DATA = Gaussian(np.full(D, 0.3), 0.2 * np.eye(D) + 0.05)
SDE = VP()
TS = grids.quadratic(SDE, 12)
MIXED = np.random.default_rng(0).permutation(N)[:7]


def shared(count, a):
    """Split an array over `count` devices."""
    mesh = jax.make_mesh(
        (count,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )
    return jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch")))


def drawn(index, sde=SDE):
    return draw_prior(KEY, sde, (len(index), D), index)


START = drawn(jnp.arange(N))


@pytest.mark.parametrize("sde", [VP(), VE()], ids=["VP", "VE"])
def test_noise_is_bitwise_the_same(sde):
    draw = jax.jit(
        lambda index: (
            drawn(index, sde),
            base.normal(base.fold(base.sample_keys(KEY, index), 3), jnp.zeros((len(index), D))),
        )
    )
    for whole, *others in zip(
        draw(jnp.arange(N)), *(draw(jnp.array(i)) for i in (MIXED, [5])), strict=True
    ):
        for index, result in zip((MIXED, [5]), others, strict=True):
            np.testing.assert_array_equal(result, np.asarray(whole)[index])
    for count in (2, 4):
        for whole, result in zip(
            draw(jnp.arange(N)), draw(shared(count, jnp.arange(N))), strict=True
        ):
            assert len(result.sharding.device_set) == count
            np.testing.assert_array_equal(result, whole)


def test_end_points_do_not_depend_on_the_batch_or_the_devices(usual):
    denoise = DATA.denoiser(SDE)

    def walk(index):
        return sample(KEY, usual, denoise, SDE, TS, START[index], index=index).x

    whole = np.asarray(walk(jnp.arange(N)))
    assert np.all(np.isfinite(whole)) and np.all(np.std(whole, axis=0) > 0.01)
    for index in (MIXED, np.array([5])):
        np.testing.assert_allclose(walk(jnp.asarray(index)), whole[index], rtol=1e-3, atol=1e-4)
    for count in (2, 4):
        index = shared(count, jnp.arange(N))
        result = sample(KEY, usual, denoise, SDE, TS, shared(count, START), index=index).x
        assert len(result.sharding.device_set) == count
        np.testing.assert_allclose(result, whole, rtol=1e-3, atol=1e-4)


def test_the_adaptive_flow_runs_on_several_devices():
    denoise, x = DATA.denoiser(SDE), drawn(jnp.arange(8))

    def flow(x):
        return probability_flow(denoise, SDE, x, rtol=1e-4, atol=1e-4)

    result = flow(shared(4, x))
    assert len(result.x.sharding.device_set) == 4
    np.testing.assert_allclose(result.x, flow(x).x, atol=1e-3)


def test_another_key_index_or_step_gives_other_noise():
    draws = [
        drawn(jnp.arange(2)),
        draw_prior(jax.random.key(8), SDE, (2, D)),
        drawn(jnp.array([2, 3])),
    ]
    draws += [
        base.normal(base.fold(base.sample_keys(KEY, jnp.arange(2)), i), jnp.zeros((2, D)))
        for i in (0, 1)
    ]
    rows = np.concatenate(draws)
    assert np.all(np.abs(np.corrcoef(rows) - np.eye(len(rows))) < 0.95)
    np.testing.assert_array_equal(
        drawn(jnp.arange(2)), draw_prior(KEY, SDE, (2, D))
    )  # the default index


def keys_used(sampler, monkeypatch):
    """Return the keys of two samples in three steps: every call of the generator, the start's included, records its own."""
    used, normal = [], jax.random.normal

    def recorded(key, shape=(), dtype=float):
        jax.debug.callback(
            lambda data: used.append(tuple(np.ravel(data).tolist())), jax.random.key_data(key)
        )
        return normal(key, shape, dtype)

    monkeypatch.setattr(jax.random, "normal", recorded)
    exact = DATA.denoiser(SDE)

    def denoise(x, t, cond=None):
        return exact(
            x, t
        )  # a function of its own, so that the recording program is compiled for it alone

    sample(KEY, sampler, denoise, SDE, TS[:4], drawn(jnp.arange(2)))
    jax.effects_barrier()
    return used


def test_no_two_draws_of_a_walk_share_a_key(usual, monkeypatch):
    used = keys_used(usual, monkeypatch)
    assert len(used) == len(set(used))
    assert (len(used) > 2) == usual.stochastic and (len(used) - 2) % 6 == 0


def test_a_corrector_shares_no_key_with_a_predictor_that_draws_several_times(monkeypatch):
    used = keys_used(PredictorCorrector(SEEDS(2), AnnealedLangevin(n_steps=2)), monkeypatch)
    assert len(used) == len(set(used)) > 2 + 3 * 2 * 3  # SEEDS(2) draws twice a step
