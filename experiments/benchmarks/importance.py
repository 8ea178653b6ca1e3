"""How much importance sampling of t cuts the variance of the loss and of its gradient.

    python -m experiments.benchmarks.importance runs/demo

The loss is the likelihood-weighted one of a trained run. Uniform times with weighting "likelihood"
against times in proportion to g^2 / sigma^2 (`LogUniform`) with weighting "noise", which have the
same expectation but for the constant Z. Independent times, so that stratification plays no part.
Variances are compared after division by the squared mean; errors are the standard error over four
quarters of the batches. With uniform times a few draws near t_min carry the variance, so that a
finite sample rather misses some of it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from sde_lib import LogUniform, Uniform, denoising_loss, draw_times

from .. import data
from ..run.build import make_dataset
from ..run.devices import set_up_jax
from ..run.loading import Loaded, load

WAYS = {
    "uniform t": (Uniform(), "likelihood"),
    "importance": (LogUniform(log_snr_min=-20.0), "noise"),
}


class Draws(NamedTuple):
    """What one way of drawing times gives."""

    losses: np.ndarray  # (batches, size)
    gradients: np.ndarray  # (batches, 32), projected on random directions


def draw_losses(loaded: Loaded, batches: int = 64, size: int = 32) -> dict[str, Draws]:
    """Return losses and projected gradients of each of `WAYS`, on the same batches."""
    run = loaded.run
    sde = loaded.sde
    stream = data.batches(
        make_dataset(run.config), run.config.train.split, size, seed=1, train=True
    )
    params, restore = ravel_pytree(loaded.denoiser.net.params)
    directions = jax.random.normal(jax.random.key(2), (32, params.size)) / jnp.sqrt(params.size)

    def losses(params, key, x, times, weighting):
        for_times, for_noise = jax.random.split(key)
        t = draw_times(for_times, sde, size, times, stratified=False)
        return denoising_loss(for_noise, run.denoiser(restore(params)), x, t, weighting=weighting)

    def mean_and_losses(params, key, x, times, weighting):
        values = losses(params, key, x, times, weighting)
        return jnp.mean(values), values

    @jax.jit
    def both(key, x):
        draws = {}
        for name, (times, weighting) in WAYS.items():
            gradient_of = jax.grad(mean_and_losses, has_aux=True)
            gradient, loss = gradient_of(params, key, x, times, weighting)
            draws[name] = Draws(losses=loss, gradients=directions @ gradient)
        return draws

    draws = []
    for i in range(batches):
        key = jax.random.key(100 + i)
        draws.append(jax.tree.map(np.asarray, both(key, next(stream)["x"])))
    return jax.tree.map(lambda *parts: np.stack(parts), *draws)


def relative_variances(draws: Draws, part: slice) -> np.ndarray:
    """Return two variances over some of the batches, of a loss and of a batch's gradient.

    The first is in units of its squared mean, the second, of the projected gradient, in units of
    the squared mean of all losses.
    """
    losses = draws.losses[part]
    gradient = draws.gradients[part].var(0, ddof=1).sum()
    return np.array([losses.var() / losses.mean() ** 2, gradient / draws.losses.mean() ** 2])


def main() -> None:
    """Measure the run that the command line names, and print the ratios of the variances."""
    set_up_jax()
    uniform, importance = draw_losses(load(Path(sys.argv[1]))).values()
    ratios = []
    for part in (slice(None), *(slice(i, None, 4) for i in range(4))):
        ratios.append(relative_variances(uniform, part) / relative_variances(importance, part))
    errors = np.std(ratios[1:], axis=0, ddof=1) / 2
    for name, value, error in zip(("loss", "gradient"), ratios[0], errors, strict=True):
        print(
            f"variance of the likelihood-weighted {name}, uniform t over importance sampling: "
            f"{value:.1f} ± {error:.1f}"
        )


if __name__ == "__main__":
    main()
