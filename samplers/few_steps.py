r"""A solver for one problem and one budget: its noise levels, the levels the network is asked at and its coefficients are numbers to learn.

With :math:`s = \sigma/\alpha`, levels :math:`s_0 > \dots > s_n` and :math:`y = x/\alpha`, step i asks the network once and moves

.. math:: \hat x_i = \hat x_0(\alpha(\tilde s_i)\, y_i, \tilde s_i), \qquad
    y_{i+1} = \frac{s_{i+1}}{s_i} y_i + \Big(1 - \frac{s_{i+1}}{s_i}\Big) \sum_{j \le i} w_{ij} \hat x_j, \qquad \sum_j w_{ij} = 1,

so that every plan is exact where the denoiser is constant (consistency). Every multistep solver on the data prediction is of
this form: DDIM has :math:`w_{ii} = 1`, DPM-Solver++(2M) a second weight, and :math:`\tilde s_i = s_i`. `samplers.fit` learns the numbers
(S4S: Frankel et al. 2025, arXiv:2502.17423).
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from sde_lib import SDE

from .base import Denoise, Sampler, Samples, sample
from .data_size import START_LEVEL, start_time
from .signal import signal_and_noise


class FewSteps(eqx.Module):
    """A multistep solver with a fixed number of steps, one network evaluation each; a call walks noise x to data.

    Attributes:
        levels: (n + 1,) decreasing sigma / alpha at the ends of the steps; a last one of 0 stands for clean data.
        asked: (n,) sigma / alpha that the network is told at each step.
        weights: (n, n) lower triangular, each row adding up to 1.
    """

    levels: Array
    asked: Array
    weights: Array

    def __check_init__(self):
        values = self.levels, self.asked, self.weights
        if any(isinstance(v, Tracer) for v in values):
            return
        levels, asked, weights = (np.asarray(v, np.float64) for v in values)
        n = len(asked)
        if levels.shape != (n + 1,) or weights.shape != (n, n):
            raise ValueError(
                f"{n} steps need {n + 1} levels and {n} x {n} weights, got shapes {levels.shape} and {weights.shape}"
            )
        if not (np.all(np.diff(levels) < 0) and levels[-1] >= 0 and np.all(asked > 0)):
            raise ValueError(
                f"need decreasing levels down to at least 0 and the network asked above 0, got {levels} and {asked}"
            )
        if np.any(np.triu(weights, 1)) or np.any(np.abs(weights.sum(1) - 1) > 1e-3):
            raise ValueError(f"need lower triangular weights whose rows add up to 1, got {weights}")

    @property
    def nfe(self) -> int:
        """Network evaluations of a walk."""
        return len(self.asked)

    def grid(self, sde: SDE) -> Array:
        """Return the times (n + 1,) of the levels; t_min stands for level 0.

        Raises:
            ValueError: the process does not reach these noise levels.
        """
        last = jnp.asarray(sde.t_min, jnp.result_type(float))
        alpha, sigma = sde.marginal(jnp.ones_like(last))
        if not any(isinstance(value, Tracer) for value in (self.levels, alpha, sigma)):
            _check_start(sde, float(self.levels[0]), float(alpha), float(sigma))
        return jnp.maximum(sde.time_of_level(self.levels), last)

    def __call__(
        self,
        denoise: Denoise,
        sde: SDE,
        x: Float[Array, "batch ..."],
        *,
        cond: Any = None,
        keep: int | None = 0,
    ) -> Samples:
        """Walk `x` from t = 1 to data; see `sample` for `cond` and `keep`."""
        walk = _Walk(self)
        return sample(
            jax.random.key(0),
            walk,
            denoise,
            sde,
            self.grid(sde),
            x,
            cond=cond,
            keep=keep,
            denoise_last=False,
        )


def _check_start(sde: SDE, level: float, alpha: float, sigma: float) -> None:
    """Raise a ValueError unless a walk that starts at a noise level starts from the prior of the process."""
    silent = start_time(sde, 1.0) < 1
    if silent and level >= 0.999 * START_LEVEL:
        return
    if silent or abs(level * alpha / sigma - 1) > 1e-3:
        has = f"{START_LEVEL:g} or above" if silent else f"{sigma / alpha:.6g}"
        raise ValueError(
            f"this solver starts at sigma / alpha = {level:.6g}, the process {type(sde).__name__} at {has}; "
            "use the process it was fitted for, or fit it anew"
        )


class _Row(NamedTuple):
    asked: Array  # the time the network is told
    scale: Array  # alpha there over alpha at the state
    keep: Array  # sigma_s / sigma_t
    data: Array  # alpha_s - keep alpha_t
    weights: Array  # (n,)
    place: Array  # of this step's estimate in the memory


class _Walk(Sampler):
    """The steps of a solver; the grid only says how many there are."""

    order: ClassVar[int] = 1
    solver: FewSteps

    def plan(self, sde: SDE, ts: Array) -> _Row:
        s, n = jnp.asarray(self.solver.levels), self.solver.nfe
        asked = sde.time_of_level(self.solver.asked)
        clean = s[1:] <= 0
        alpha, sigma = signal_and_noise(sde, ts)
        alpha_s, sigma_s = jnp.where(clean, 1.0, alpha[1:]), jnp.where(clean, 0.0, sigma[1:])
        keep = sigma_s / sigma[:-1]
        scale = signal_and_noise(sde, asked)[0] / alpha[:-1]
        return _Row(
            asked,
            scale,
            keep,
            alpha_s - keep * alpha[:-1],
            jnp.asarray(self.solver.weights),
            jnp.arange(n),
        )

    def init(self, x: Array) -> Array:
        return jnp.zeros((self.solver.nfe, *x.shape), x.dtype)

    def step(self, keys, denoise, x, row, memory, cond):
        del keys
        memory = memory.at[row.place.astype(int)].set(denoise(row.scale * x, row.asked, cond).x0)
        return row.keep * x + row.data * jnp.tensordot(row.weights, memory, 1), memory
