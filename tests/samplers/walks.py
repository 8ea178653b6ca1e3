"""Every public function of `samplers` that walks: a test that asks for them meets a new one as well."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

import samplers
from samplers import DDIM, grids
from sde_lib import SDE as Process
from sde_lib import VP

# What chooses a grid or a solver by walking, and is tested on its own.
CHOOSERS = {"measured_grid", "fit_grid", "fit_solver"}


def needed(function) -> set[str]:
    """Return the names of the parameters without a default."""
    given = inspect.signature(function).parameters.items()
    return {name for name, parameter in given if parameter.default is parameter.empty}


NAMES = sorted(
    name
    for name, function in inspect.getmembers(samplers, inspect.isfunction)
    if {"denoise", "sde"} <= needed(function) and name not in CHOOSERS
)
KEY, SDE = jax.random.key(0), VP()
SETTINGS = {"key": KEY, "sampler": DDIM(), "ts": grids.log_snr(SDE, 4)}
TOLERANCES = {"rtol": 0.1, "atol": 0.1, "tolerance": 0.1, "draws": 2}


class OneOf(Process):
    """One of several processes, told by its traced number, so that a walk is compiled once for all of them."""

    processes: tuple[Process, ...]
    number: jax.Array

    def marginal(self, t):
        return self._of("marginal", t)

    def log_snr(self, t):
        return self._of("log_snr", t)

    def inverse(self, log_snr):
        return self._of("inverse", log_snr)

    def _of(self, method, *args):
        return jax.lax.switch(
            self.number, [strong(getattr(p, method)) for p in self.processes], *args
        )


def strong(function):
    """Return the function with results of its argument's own type, as the branches of a switch need them."""

    def call(t):
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.asarray(t).dtype), function(t))

    return call


def each(processes) -> list[OneOf]:
    """Return the processes such that they share a compilation."""
    variants = []
    for i, process in enumerate(processes):
        t_min: Any = jnp.asarray(process.t_min)  # held in an array, it does not tell programs apart
        variants.append(OneOf(tuple(processes), jnp.asarray(i), t_min=t_min))
    return variants


def results(name: str) -> tuple[str, ...]:
    """Return the names of what a walk returns, none if that is one array."""
    return getattr(inspect.signature(getattr(samplers, name)).return_annotation, "_fields", ())


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
