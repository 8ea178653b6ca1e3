r"""A denoiser trained under one process, sampled under another.

The estimate at :math:`x / \alpha = x_0 + (\sigma / \alpha) \epsilon` depends on the noise level
:math:`\sigma / \alpha` alone. So the estimate at (x, t) under one process is that of another one at

.. math:: \tilde\sigma_{\tilde t} / \tilde\alpha_{\tilde t} = \sigma_t / \alpha_t, \qquad
    \tilde x = \frac{\tilde h}{h} x, \qquad h = \sqrt{\alpha^2 + \sigma^2},

exactly (Karras et al. 2022, arXiv:2206.00364, section 3): any sampler and any grid work with any
Gaussian model.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .arrays import as_state, expand, expand_time
from .base import SDE, check_process
from .estimate import Estimate
from .memory import Remembering, init_memory, recall
from .protocols import Denoise


class Retimed(Remembering):
    """A denoise function for one process, made of one for another process.

    A noise level that the process `trained` does not have is taken for its nearest one.

    Attributes:
        denoise: a denoise function for states and times of `trained`, see `Denoise`.
        trained: the process that it was trained under.
        sde: the process whose states and times come in.
    """

    denoise: Denoise
    trained: SDE
    sde: SDE

    def __check_init__(self):
        check_process("Retimed", self.trained)
        check_process("Retimed", self.sde)

    def init(self, x: Array) -> Any:
        """Return the memory of `denoise`; see `Remembering.init`."""
        return init_memory(self.denoise, x)

    def recall(self, x: Array, t: ArrayLike, cond: Any, memory: Any) -> tuple[Estimate, Any]:
        """Return the estimate of `denoise` at the same noise level, and its memory.

        Args:
            x: the state (batch, ...) of `sde`.
            t: its time, of shape () or (batch,).
            cond: conditions, handed on.
            memory: of `denoise`, handed on.
        """
        x = as_state(x)
        t = jnp.reshape(expand_time(t, x), jnp.shape(t))
        there = self.trained.time(self.sde.log_snr(t)).astype(t.dtype)
        scale = jnp.hypot(*self.trained.marginal(there)) / jnp.hypot(*self.sde.marginal(t))
        return recall(self.denoise, (expand(scale, x) * x).astype(x.dtype), there, cond, memory)
