r"""Adaptive projected guidance, without its momentum (Sadat et al. 2024, arXiv:2410.02416).

Classifier-free guidance moves the conditional estimate by :math:`(w - 1) \Delta` with
:math:`\Delta = D_c - D_u`. The part of :math:`\Delta` along :math:`D_c` saturates colours, so it is
weakened, and the whole is kept below a norm:

.. math:: \Delta \leftarrow \Delta \min(1, r / \|\Delta\|), \qquad
    D = D_c + (w - 1) (\Delta_\perp + \eta \Delta_\parallel) .

The paper also subtracts a running mean of earlier :math:`\Delta`. That takes a memory from step to
step, which a denoise function, being a pure function of the state, has not; it is left out.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state
from ..base import SDE, check_process
from ..checks import check_numbers
from ..estimate import Estimate
from .base import (
    Guidance,
    Interval,
    check_interval,
    check_scale,
    marginal_at,
    over_sample,
    scale_at,
    split,
)
from .classifier_free import both


class ProjectedGuidance(Guidance):
    """Classifier-free guidance across the conditional estimate more than along it.

    With eta = 1 and no cap it is `ClassifierFree`; else scale 0 is not the unconditional estimate.
    Norms and projections are those of each sample. It costs two evaluations a call.

    Attributes:
        denoise: takes conditions, or `null` for none.
        sde: its process.
        scale: 1 is the conditional estimate; any number may be traced. `Guided` as `cond` brings
            one for each sample.
        eta: what is left of the parallel part, 0 in the paper.
        cap: the largest norm of D_c - D_u, in units of the data; None for no cap.
        null: what `denoise` takes for "no condition", see `ClassifierFree`.
        interval: (low, high) of the noise level sigma / alpha, outside of which the scale is 1
            (arXiv:2404.07724).
    """

    sde: SDE
    scale: float
    eta: float = 0.0
    cap: float | None = None
    null: Any = None
    interval: Interval = None

    def __check_init__(self):
        check_process("ProjectedGuidance", self.sde)
        check_scale(self.scale)
        check_numbers("eta finite", lambda eta: True, self.eta)
        if self.cap is not None:
            check_numbers("cap > 0", lambda cap: cap > 0, self.cap, remedy="None is no cap")
        check_interval("ProjectedGuidance", self.interval, self.sde)

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the guided estimate.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: the conditions, or `Guided`.

        Raises:
            ValueError: no condition, or scales that do not fit the batch.
        """
        x = as_state(x)
        cond, scale = split(cond, self.scale, x)
        scale = scale_at(scale, t, x, self.interval, self.sde)
        weak, strong = both(self.denoise, x, t, cond, self.null)
        difference = self._capped(strong.x0 - weak.x0)
        parallel = _projected(difference, strong.x0)
        update = difference - (1 - self.eta) * parallel
        alpha, sigma = marginal_at(self.sde, t, x)
        return strong.moved(alpha, sigma, (scale - 1.0) * update)

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
