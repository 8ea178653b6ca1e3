"""Grids, recommendations and whole walks can be made inside `vmap`, as inside `jit`."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, grids, recommended, sample
from sde_lib import VP, Gaussian
from tests.processes import DOCUMENTED

GRIDS = [
    make
    for name, make in inspect.getmembers(grids, inspect.isfunction)
    if make.__module__ == grids.__name__ and not name.startswith("_")
]


def test_the_grids_are_found():
    assert {"uniform", "karras", "log_snr"} <= {make.__name__ for make in GRIDS}


@pytest.mark.parametrize("process", [VP, *DOCUMENTED], ids=lambda c: c.__name__)
@pytest.mark.parametrize("make", GRIDS, ids=lambda make: make.__name__)
def test_a_grid_is_the_same_inside_vmap(make, process):
    expected = make(process(), 5, start=0.9)

    def inside(k):
        ts = make(process(), 5, start=0.9)
        np.testing.assert_array_equal(ts, expected)
        return ts * jnp.ones_like(k)

    assert jax.vmap(inside)(jnp.arange(3.0)).shape == (3, 6)


def test_a_recommendation_and_a_walk_are_the_same_inside_vmap():
    sde = VP()
    denoise = Gaussian([0.5], [[0.25]]).denoiser(sde)
    x, key = jnp.array([[-1.0], [2.0]]), jax.random.key(0)

    def walk(scale):
        ts = recommended(sde, 5).ts
        return sample(key, DDIM(), denoise, sde, ts, scale * x).x

    scales = jnp.array([1.0, 0.5])
    np.testing.assert_allclose(jax.vmap(walk)(scales)[1], walk(scales[1]), rtol=1e-5)
