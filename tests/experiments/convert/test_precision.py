"""Half the bits in the computation cost a hundredth of the output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from experiments.convert import FORMATS
from experiments.convert.formats import abstract_network


@pytest.fixture(scope="module", params=["ncsnpp_ve_cifar", "ddpmpp_vp"])
def case(request, networks):
    """Return a function of settings -> (network as a function of x and t, its inputs) for a
    converted network.
    """
    name = request.param
    converted = FORMATS["score_sde_pytorch"](
        networks / f"{name}.npz", str(networks / f"{name}.config.json")
    )
    with np.load(networks / f"{name}.npz") as file:
        x = jnp.asarray(file["x"].transpose(0, 2, 3, 1))
        t = jnp.asarray(file["t"])
        y = file["y_f64"].transpose(0, 2, 3, 1)

    def net(**settings):
        config = converted.config.copy_and_resolve_references()
        with config.unlocked():
            config.net.update(settings)
        evaluate = models.split(abstract_network(config)).evaluate
        return lambda x, t: models.merge(evaluate, converted.ema)(x, t)

    return net, x, t, y


def test_bfloat16_stays_near_float32_and_finite_at_any_noise_level(case, relative_errors):
    net, x, t, y = case
    low = jax.jit(net(dtype="bfloat16"))
    got = low(x, t)
    assert got.dtype == jnp.float32
    assert relative_errors(got, y).max() < 2e-2
    extreme = (
        jnp.array([1e-5, 1e-3, 1e3, 1e5])
        if float(t[0]) < 0.1
        else jnp.array([0.0, 1e-3, 999.0, 1e4])
    )
    assert bool(jnp.isfinite(low(x, extreme)).all())
