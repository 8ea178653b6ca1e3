"""What is timed of a network: its forward pass, its training step and a walk, on a mesh of devices."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from samplers import DPMpp2M, grids
from samplers import sample as walk

from ..run.build import Run
from ..run.losses import make_loss
from ..run.placement import replicated, share
from ..state import TrainState, init_state, make_train_step


class Steps:
    """Training steps, one after the other: each goes on from where the last one ended.

    Several programs may take turns, as long as they take one kind of state.
    """

    def __init__(self, state: TrainState, batch: Any):
        self._state = state
        self._batch = batch

    def of(self, step: Callable) -> Callable:
        """Return the call that makes one more step with `step`, and returns its metrics."""

        def call():
            self._state, metrics = step(self._state, self._batch)
            return metrics

        return call


def images(run: Run, batch: int, mesh: Any) -> dict[str, jax.Array]:
    """Return a batch to train on, shared by the devices of a mesh."""
    x = np.random.default_rng(0).standard_normal((batch, *run.facts.shape)).astype(np.float32)
    return share(mesh, {"x": np.tanh(x), "label": np.zeros(batch, np.int32)})


def first_state(run: Run, mesh: Any) -> TrainState:
    """Return the state before the first step, whole on every device."""
    state = init_state(jax.random.key(0), run.split.params, run.tx)
    return jax.device_put(state, replicated(mesh))


def forward(run: Run, batch: int, mesh: Any) -> Callable[[], jax.Array]:
    """Return the call that evaluates the network for a batch."""
    x = images(run, batch, mesh)["x"]
    t = share(mesh, np.linspace(0.01, 0.99, batch, dtype=np.float32))
    denoiser = _whole(run, mesh)
    output = eqx.filter_jit(lambda denoiser, x, t: denoiser.output(x, t))
    return lambda: output(denoiser, x, t)


def training(run: Run, batch: int, mesh: Any) -> Callable:
    """Return the call that makes one more training step."""
    steps = Steps(first_state(run, mesh), images(run, batch, mesh))
    return steps.of(make_train_step(make_loss(run), run.tx))


def sampling(run: Run, batch: int, mesh: Any, steps: int) -> Callable[[], jax.Array]:
    """Return the call that draws a batch by as many steps of DPM-Solver++(2M), a network call each."""
    x = images(run, batch, mesh)["x"]
    index = share(mesh, np.arange(batch, dtype=np.int32))
    denoiser = _whole(run, mesh)
    ts = grids.log_snr(run.sde, steps)
    key = jax.random.key(0)

    def draw():
        return walk(key, DPMpp2M(), denoiser, run.sde, ts, x, index=index, denoise_last=False).x

    return draw


def product(n: int, dtype: str, precision: str | None, mesh: Any) -> Callable[[], jax.Array]:
    """Return the call that multiplies two n x n matrices, of which each device has some rows."""
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal((n, n), np.float32), dtype) for _ in range(2))
    a = share(mesh, a)
    b = jax.device_put(b, replicated(mesh))
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    return lambda: multiply(a, b)


def _whole(run: Run, mesh: Any) -> Any:
    """Return the denoiser of a run, whole on every device."""
    return eqx.filter_shard(run.denoiser(run.split.params), replicated(mesh))
