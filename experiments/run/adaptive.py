r"""Training times that go where the loss is large.

They have importance weights of their quantiles, which are measured while training.

Every `objective.adapt_every` steps the losses of the last batch, at evenly spaced times in each of
`objective.adapt_bins` equal parts of `objective.times`, give each part a weight in proportion to
its root mean square loss (`sde_lib.reweighted`). The weights travel with each batch and are stored
in checkpoints beside the position in the data, so that a resumed run is bitwise the one never
stopped. The expected loss is left as it is; only its variance changes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sde_lib
from sde_lib import Binned, TimeDistribution, draw_quantiles, reweighted

from ..state import TrainState
from .build import make

WEIGHTS = "time_weights"  # their place in a batch, and in a checkpoint's position
DRAWS = 8  # times for each example of the batch that is measured


class AdaptiveTimes:
    """The weights of a run, if it has any; without them everything passes as it is."""

    def __init__(self, objective: ConfigDict, losses: Callable, sharding: jax.sharding.Sharding):
        """Start from equal weights. `losses` are those of `losses.make_losses`.

        `sharding` holds an array whole on every device.
        """
        self._every = objective.adapt_every
        self._sharding = sharding
        self._weights = np.ones(objective.adapt_bins, np.float32) if self._every else None
        base = make(sde_lib, objective.times, TimeDistribution)
        equal = Binned(base, np.ones(objective.adapt_bins))

        @functools.partial(jax.jit, out_shardings=sharding)
        def new_weights(params: Any, key: jax.Array, batch: dict) -> jax.Array:
            def draw(key):
                for_times, *keys = jax.random.split(key, 4)
                u = draw_quantiles(for_times, len(batch["x"]))
                return u, losses(params, keys, batch, equal, u)

            u, loss = jax.lax.map(draw, jax.random.split(key, DRAWS))
            return reweighted(equal, u.ravel(), loss.ravel()).weights

        self._new_weights = new_weights

    def join(self, batch: dict) -> dict:
        """Return a batch together with the weights."""
        if self._weights is None:
            return batch
        weights = jax.device_put(self._weights, self._sharding)
        return batch | {WEIGHTS: weights}

    def update(self, state: TrainState, batch: dict, step: int) -> None:
        """Measure the weights anew after `step` steps, if it is time to."""
        if self._every and step % self._every == 0:
            key = jax.random.fold_in(jax.random.fold_in(state.key, step), 1)
            self._weights = np.asarray(self._new_weights(state.params, key, batch))

    def keep(self, position: Any) -> Any:
        """Return, as JSON, the position in the data together with the weights."""
        if self._weights is None:
            return position
        return {"data": position, WEIGHTS: self._weights.tolist()}

    def restore(self, saved: Any) -> Any:
        """Take the weights out of what `keep` returned; return the position in the data."""
        if self._weights is None:
            return saved
        self._weights = np.asarray(saved[WEIGHTS], np.float32)
        return saved["data"]
