"""How much importance sampling of t cuts the variance of the likelihood-weighted loss and of its gradient, on a trained run.

    python -m experiments.benchmarks.importance runs/demo

Uniform times with weighting "likelihood" against times in proportion to g^2 / sigma^2 (`LogUniform`) with weighting "noise", which have the
same expectation but for the constant Z. Independent times, so that stratification plays no part. Variances are compared after division by
the squared mean; errors are the standard error over four quarters of the batches. With uniform times a few draws near t_min carry the
variance, so that a finite sample rather misses some of it.
"""

import sys
from pathlib import Path

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


def measure(
    loaded: Loaded, batches: int = 64, size: int = 32
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each way's losses (batches, size), and its gradients' projections on 32 random directions (batches, 32)."""
    run, sde = loaded.run, loaded.sde
    stream = data.batches(
        make_dataset(run.config), run.config.train.split, size, seed=1, train=True
    )
    params, restore = ravel_pytree(loaded.denoiser.net.params)
    directions = jax.random.normal(jax.random.key(2), (32, params.size)) / jnp.sqrt(params.size)

    def losses(params, key, x, times, weighting):
        for_times, for_noise = jax.random.split(key)
        t = draw_times(for_times, sde, size, times, stratified=False)
        return denoising_loss(for_noise, run.denoiser(restore(params)), x, t, weighting=weighting)

    @jax.jit
    def both(key, x):
        found = {}
        for name, (times, weighting) in WAYS.items():
            gradient, loss = jax.grad(
                lambda p, t=times, w=weighting: (jnp.mean(v := losses(p, key, x, t, w)), v),
                has_aux=True,
            )(params)
            found[name] = loss, directions @ gradient
        return found

    found = [
        jax.tree.map(np.asarray, both(jax.random.key(100 + i), next(stream)["x"]))
        for i in range(batches)
    ]
    return {
        name: (np.stack([f[name][0] for f in found]), np.stack([f[name][1] for f in found]))
        for name in WAYS
    }


def relative_variances(loss: np.ndarray, gradient: np.ndarray, scale: float) -> np.ndarray:
    """Return the variance of one loss over its squared mean, and of a batch's gradient, projected, in units of the loss's mean."""
    return np.array([loss.var() / loss.mean() ** 2, gradient.var(0, ddof=1).sum() / scale**2])


def main() -> None:
    """Measure and print."""
    set_up_jax()
    found = measure(load(Path(sys.argv[1])))
    ratios = []
    for part in (slice(None), *(slice(i, None, 4) for i in range(4))):
        values = [
            relative_variances(loss[part], gradient[part], loss.mean())
            for loss, gradient in found.values()
        ]
        ratios.append(values[0] / values[1])
    error = np.std(ratios[1:], axis=0, ddof=1) / 2
    for name, value, spread in zip(("loss", "gradient"), ratios[0], error, strict=True):
        print(
            f"variance of the likelihood-weighted {name}, uniform t over importance sampling: {value:.1f} ± {spread:.1f}"
        )


if __name__ == "__main__":
    main()
