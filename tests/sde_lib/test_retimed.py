"""A denoiser seen through another process gives what that process's own exact denoiser gives, and so do walks with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, DPMpp2M
from sde_lib import VE, VP, Estimate, Gaussian, Retimed, SubVP
from tests.samplers.eager import walk

DATA = Gaussian([0.7, -0.4], [[0.25, 0.06], [0.06, 0.04]])


@pytest.mark.parametrize(
    ("trained", "sde"),
    [(VP(), VE(sigma_max=50.0)), (VE(sigma_min=0.001, sigma_max=200.0), VP()), (SubVP(), VP())],
)
def test_it_is_the_denoiser_of_the_other_process(trained, sde):
    with jax.enable_x64(True):
        t = jnp.array([0.3, 0.5, 0.95])
        x = jnp.array([[0.5, -0.2], [1.0, 3.0], [-2.0, 0.1]]) * sde.marginal(t)[1][:, None]
        retimed, own = Retimed(DATA.denoiser(trained), trained, sde), DATA.denoiser(sde)
        for result, expected in zip(retimed(x, t), own(x, t), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(retimed(x, 0.5).x0[1], own(x, t).x0[1], rtol=1e-9)


def test_conditions_reach_the_network():
    retimed = Retimed(lambda x, t, cond: Estimate(x + cond, x), VP(), VE())
    different = retimed(jnp.ones((2, 3)), 0.5, 1.0).x0 - retimed(jnp.ones((2, 3)), 0.5, 0.0).x0
    np.testing.assert_allclose(different, 1.0, rtol=1e-5)


@pytest.mark.parametrize("sampler", [DDIM(), DPMpp2M()], ids=["DDIM", "DPMpp2M"])
def test_walks_through_the_same_noise_levels_are_the_same(sampler):
    # These two know a process by its noise levels alone: x / alpha goes the same way under each.
    with jax.enable_x64(True):
        vp, ve, levels = VP(), VE(sigma_max=50.0), np.geomspace(50.0, 0.02, 8)
        ends = []
        for sde in (vp, ve):
            ts = np.asarray(sde.time(jnp.asarray(-2 * np.log(levels))))
            alpha = np.asarray(sde.marginal(jnp.asarray(ts))[0])
            start = alpha[0] * 50 * np.array([[0.5, -0.2], [1.0, 3.0]])
            ends.append(
                walk(sampler, sde, ts, start, lambda x, a, s: _estimate(x / a, s / a)) / alpha[-1]
            )
        np.testing.assert_allclose(ends[0], ends[1], rtol=1e-8)


def _estimate(y, level):
    mean, cov = np.asarray(DATA.mean), np.asarray([[0.25, 0.06], [0.06, 0.04]])
    noise = level * (y - mean[None]) @ np.linalg.inv(cov + level**2 * np.eye(2))
    return Estimate(y - level * noise, noise)
