r"""Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416).

Classifier-free guidance moves the conditional estimate by :math:`(w - 1) \Delta` with
:math:`\Delta = D_c - D_u`. The part of :math:`\Delta` along :math:`D_c` saturates colours, so it is
weakened, and the whole is kept below a norm:

.. math:: \Delta \leftarrow \Delta \min(1, r / \|\Delta\|), \qquad
    D = D_c + (w - 1) (\Delta_\perp + \eta \Delta_\parallel) .

With momentum :math:`\beta` a running sum over the calls of a walk comes first,
:math:`\Delta_n \leftarrow \Delta_n + \beta \Delta_{n-1}`, in which :math:`\Delta_{n-1}` is the sum
of the call before, neither shortened nor projected. A negative :math:`\beta` pushes away from
where guidance went before. Calls outside of the interval count, too.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state
from ..base import SDE, check_process
from ..checks import check_numbers, known
from ..estimate import Estimate
from .base import (
    Guidance,
    Interval,
    Pair,
    check_interval,
    check_scale,
    marginal_at,
    over_sample,
    scale_at,
    split,
)
from .classifier_free import both, both_memories


class Momentum(NamedTuple):
    """What projected guidance remembers."""

    estimates: Pair  # the memories of the two estimates
    update: Array | None  # (batch, ...) the running sum of D_c - D_u; None without momentum


class ProjectedGuidance(Guidance):
    """Classifier-free guidance across the conditional estimate more than along it.

    With eta = 1, no cap and no momentum it is `ClassifierFree`; else scale 0 is not the unconditional estimate.
    Norms and projections are those of each sample. It costs two evaluations a call.

    Attributes:
        denoise: takes conditions, or `null` for none.
        sde: its process.
        scale: 1 is the conditional estimate; any number may be traced. `Guided` as `cond` brings
            one for each sample.
        eta: what is left of the parallel part, 0 in the paper.
        cap: the largest norm of D_c - D_u, in units of the data; None for no cap.
        momentum: beta, the weight of the sum of the call before; the paper takes -0.5 for SDXL. It
            acts in walks that remember, see `Remembering`; a call by itself is a first one.
        null: what `denoise` takes for "no condition", see `ClassifierFree`.
        interval: (low, high) of the noise level sigma / alpha, outside of which the scale is 1
            (arXiv:2404.07724).
    """

    sde: SDE
    scale: float
    eta: float = 0.0
    cap: float | None = None
    momentum: float = 0.0
    null: Any = None
    interval: Interval = None

    def __check_init__(self):
        check_process("ProjectedGuidance", self.sde)
        check_scale(self.scale)
        check_numbers("eta finite", lambda eta: True, self.eta)
        if self.cap is not None:
            check_numbers("cap > 0", lambda cap: cap > 0, self.cap, remedy="None is no cap")
        check_numbers(
            "-1 < momentum < 1",
            lambda momentum: abs(momentum) < 1,
            self.momentum,
            remedy="0 is none",
        )
        check_interval("ProjectedGuidance", self.interval, self.sde)

    def init(self, x: Array) -> Momentum:
        """Return the memories of both estimates, and an update of 0; see `Remembering.init`."""
        x = as_state(x)
        none = known(self.momentum) and not self.momentum
        update = None if none else jnp.zeros_like(x)
        return Momentum(estimates=both_memories(self.denoise, x), update=update)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the guided estimate and the memory; see `Remembering.recall`.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: the conditions, or `Guided`.
            memory: what the call before has returned.

        Raises:
            ValueError: no condition, or scales that do not fit the batch.
        """
        x = as_state(x)
        cond, scale = split(cond, self.scale, x)
        scale = scale_at(scale, t, x, self.interval, self.sde)
        (weak, strong), estimates = both(self.denoise, x, t, cond, self.null, memory.estimates)
        difference = strong.x0 - weak.x0
        update = None
        if memory.update is not None:
            difference = (difference + self.momentum * memory.update).astype(x.dtype)
            update = difference
        difference = self._capped(difference)
        parallel = _projected(difference, strong.x0)
        across = difference - (1 - self.eta) * parallel
        alpha, sigma = marginal_at(self.sde, t, x)
        guided = strong.moved(alpha, sigma, (scale - 1.0) * across)
        return guided, Momentum(estimates=estimates, update=update)

    def _capped(self, difference: Array) -> Array:
        """Return `difference` (batch, ...), shortened to the cap."""
        if self.cap is None:
            return difference
        square = _product(difference, difference)
        long = square > self.cap**2
        return difference * jnp.where(long, self.cap / jnp.sqrt(jnp.where(long, square, 1.0)), 1.0)


def _product(a: Array, b: Array) -> Array:
    """Return the scalar product of each sample, (batch, 1, ...)."""
    return jnp.sum(a * b, over_sample(a), keepdims=True)


def _projected(values: Array, onto: Array) -> Array:
    """Return the part of `values` (batch, ...) along `onto`; it is 0 where that is 0."""
    square = _product(onto, onto)
    there = square > 0
    return jnp.where(there, _product(values, onto) / jnp.where(there, square, 1.0), 0.0) * onto
