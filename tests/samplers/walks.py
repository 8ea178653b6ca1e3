"""Every public function of `samplers` that walks: a test that asks for them meets a new one as well."""

import inspect

import jax
import jax.numpy as jnp

import samplers
from samplers import DDIM, grids
from sde_lib import VP

# What chooses a grid or a solver by walking, and is tested on its own.
CHOOSERS = {"measured", "fit_grid", "fit_solver"}
NAMES = sorted(
    name
    for name, function in inspect.getmembers(samplers, inspect.isfunction)
    if {"denoise", "sde"} <= set(inspect.signature(function).parameters) and name not in CHOOSERS
)
KEY, SDE = jax.random.key(0), VP()
SETTINGS = {"key": KEY, "sampler": DDIM(), "ts": grids.log_snr(SDE, 4)}
TOLERANCES = {"rtol": 0.1, "atol": 0.1, "tolerance": 0.1, "draws": 2}


def parameters(name: str) -> set[str]:
    """Return the names of the parameters of a walk."""
    return set(inspect.signature(getattr(samplers, name)).parameters)


def call(name: str, denoise, x, **changed):
    """Call a walk on the state or codes `x`, with settings that make it short; `changed` ones that it has not are left out."""
    known = parameters(name)
    settings = {"denoise": denoise, "sde": SDE, **SETTINGS, **TOLERANCES, "x": x, "z": x, **changed}
    return getattr(samplers, name)(**{k: v for k, v in settings.items() if k in known})


def state(result) -> jax.Array:
    """Return the state or codes that a walk ended in, or the log-densities that it found."""
    for part in ("x", "log_prob"):
        if hasattr(result, part):
            return getattr(result, part)
    return jnp.asarray(result)
