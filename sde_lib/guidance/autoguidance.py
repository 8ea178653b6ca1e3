r"""Autoguidance: away from a weaker model of the same thing (Karras et al. 2024, arXiv:2406.02507).

.. math:: D = D_w + w (D - D_w)

The weaker model is smaller or less trained, and makes the same mistakes, but larger ones.
"""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from ..arrays import as_state
from ..base import SDE
from ..estimate import Estimate
from ..evaluations import evaluate
from ..memory import init_memory, recall
from ..protocols import Denoise
from .base import (
    Guidance,
    Interval,
    Pair,
    between,
    check_denoiser,
    check_interval,
    check_scale,
    scale_at,
    split,
)


class Autoguidance(Guidance):
    """The estimates of a model and of a weaker one, extrapolated.

    Both get the same conditions, which may be None. A call costs one evaluation of each, also
    outside of the interval and at scale 1, as a compiled program evaluates both.

    Attributes:
        denoise: the model.
        weaker: a denoise function for the same process and conditions.
        scale: 1 is the model alone, 0 the weaker one; any number may be traced. `Guided` as `cond`
            brings one for each sample.
        interval: (low, high) of the noise level sigma / alpha, outside of which the scale is 1
            (arXiv:2404.07724).
        sde: the process of `denoise`, which only an interval needs.
    """

    weaker: Denoise
    scale: float
    interval: Interval = None
    sde: SDE | None = None

    def __check_init__(self):
        check_denoiser("Autoguidance", self.weaker)
        check_scale(self.scale)
        check_interval("Autoguidance", self.interval, self.sde)

    def init(self, x: Array) -> Pair:
        """Return the memories of both models; see `Remembering.init`."""
        return Pair(weak=init_memory(self.weaker, x), strong=init_memory(self.denoise, x))

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the guided estimate and the memory; see `Remembering.recall`.

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            cond: the conditions of both models, or `Guided`.
            memory: what the call before has returned.

        Raises:
            ValueError: scales that do not fit the batch.
        """
        x = as_state(x)
        cond, scale = split(cond, self.scale, x)
        weak, of_weak = evaluate(recall, self.weaker, x, t, cond, memory.weak)
        strong, of_strong = evaluate(recall, self.denoise, x, t, cond, memory.strong)
        scale = scale_at(scale, t, x, self.interval, self.sde)
        return between(weak, strong, scale), Pair(weak=of_weak, strong=of_strong)
