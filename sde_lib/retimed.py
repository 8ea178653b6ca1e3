r"""A denoiser trained under one process, sampled under another.

What is expected in :math:`x / \alpha = x_0 + (\sigma / \alpha) \epsilon` depends on the noise level :math:`\sigma / \alpha` alone, so that
the estimate at (x, t) under one process is that of another one at

.. math:: \tilde\sigma_{\tilde t} / \tilde\alpha_{\tilde t} = \sigma_t / \alpha_t, \qquad
    \tilde x = \frac{\tilde h}{h} x, \qquad h = \sqrt{\alpha^2 + \sigma^2},

exactly (Karras et al. 2022, arXiv:2206.00364, section 3): any sampler and any grid work with any Gaussian model.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .arrays import as_state, expand, expand_time
from .base import SDE, check_process
from .estimate import Estimate


class Retimed(eqx.Module):
    """A callable (x, t, cond) -> Estimate for states and times of the process `sde`, made of one for those of the process `trained`.

    A noise level that `trained` does not have is taken for its nearest one.
    """

    denoise: Callable
    trained: SDE
    sde: SDE

    def __check_init__(self):
        check_process("Retimed", self.trained)
        check_process("Retimed", self.sde)

    def __call__(self, x: Array, t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the estimate of `denoise` at the same noise level; `t` has shape () or (batch,)."""
        x = as_state(x)
        t = jnp.reshape(expand_time(t, x), jnp.shape(t))
        there = self.trained.time(self.sde.log_snr(t)).astype(t.dtype)
        scale = jnp.hypot(*self.trained.marginal(there)) / jnp.hypot(*self.sde.marginal(t))
        return self.denoise((expand(scale, x) * x).astype(x.dtype), there, cond)
