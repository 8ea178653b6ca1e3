r"""A solver for one problem and one budget, all of whose numbers can be learned.

With :math:`s = \sigma/\alpha`, noise levels :math:`s_0 > \dots > s_n` and :math:`y = x/\alpha`,
step i calls the network once, for a noise level :math:`\tilde s_i` of its own, and moves

.. math::
    \hat x_i &= \hat x_0(\alpha(\tilde s_i)\, y_i, \tilde s_i), \\
    y_{i+1} &= \frac{s_{i+1}}{s_i} y_i + \Big(1 - \frac{s_{i+1}}{s_i}\Big)
    \sum_{j \le i} w_{ij} \hat x_j, \qquad \sum_j w_{ij} = 1,

so that every plan is exact where the denoiser is constant (consistency). Every multistep solver on
the data prediction is of this form: DDIM has :math:`w_{ii} = 1`, DPM-Solver++(2M) a second weight,
and :math:`\tilde s_i = s_i`. `samplers.fit` learns the numbers (S4S: Frankel et al. 2025,
arXiv:2502.17423).
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from sde_lib import SDE, Denoise

from .base import Sampler
from .data_size import START_LEVEL, start_time
from .signal import signal_and_noise
from .walk import Samples, sample


class FewSteps(eqx.Module):
    """A multistep solver with a fixed number of steps, one network call each.

    A call walks noise to data.

    Attributes:
        noise_levels: (n + 1,) decreasing sigma / alpha at the ends of the steps; a last one of 0
            stands for clean data.
        network_levels: (n,) sigma / alpha that the network is given at each step.
        weights: (n, n) lower triangular, each row adding up to 1.
    """

    noise_levels: Array
    network_levels: Array
    weights: Array

    def __check_init__(self):
        values = self.noise_levels, self.network_levels, self.weights
        if any(isinstance(v, Tracer) for v in values):
            return
        levels, network_levels, weights = (np.asarray(v, np.float64) for v in values)
        n = len(network_levels)
        if levels.shape != (n + 1,) or weights.shape != (n, n):
            raise ValueError(
                f"{n} steps need {n + 1} noise levels and {n} x {n} weights, "
                f"got shapes {levels.shape} and {weights.shape}"
            )
        decreasing = np.all(np.diff(levels) < 0) and levels[-1] >= 0
        if not (decreasing and np.all(network_levels > 0)):
            raise ValueError(
                "need decreasing noise levels down to at least 0 and network levels above 0, "
                f"got {levels} and {network_levels}"
            )
        if np.any(np.triu(weights, 1)) or np.any(np.abs(weights.sum(1) - 1) > 1e-3):
            raise ValueError(f"need lower triangular weights whose rows add up to 1, got {weights}")

    @property
    def nfe(self) -> int:
        """Network evaluations of a walk."""
        return len(self.network_levels)

    def grid(self, sde: SDE) -> Array:
        """Return the times (n + 1,) of the noise levels; t_min stands for level 0.

        Raises:
            ValueError: the process does not reach these noise levels.
        """
        last = jnp.asarray(sde.t_min, jnp.result_type(float))
        alpha, sigma = sde.marginal(jnp.ones_like(last))
        if not any(isinstance(value, Tracer) for value in (self.noise_levels, alpha, sigma)):
            _check_start(sde, float(self.noise_levels[0]), float(alpha), float(sigma))
        return jnp.maximum(sde.time_of_level(self.noise_levels), last)

    def __call__(
        self,
        denoise: Denoise,
        sde: SDE,
        x: Float[Array, "batch ..."],
        *,
        cond: Any = None,
        keep: int | None = 0,
    ) -> Samples:
        """Walk `x` (batch, ...) from t = 1 to data.

        Args:
            denoise: the denoiser, see `Denoise`.
            sde: the process that the solver was fitted for.
            x: noise of the prior (batch, ...).
            cond: a pytree of conditions with leading axis `batch`.
            keep: how many of the last states to return as `path`; None for all.

        Raises:
            ValueError: the process does not reach the noise levels, or `sample` refuses the walk.
        """
        return sample(
            jax.random.key(0),
            _FewStepsSampler(self),
            denoise,
            sde,
            self.grid(sde),
            x,
            cond=cond,
            keep=keep,
            denoise_last=False,
        )


def _check_start(sde: SDE, level: float, alpha: float, sigma: float) -> None:
    """Raise a ValueError unless a walk that starts at a noise level starts from the prior."""
    silent = start_time(sde, 1.0) < 1
    if silent and level >= 0.999 * START_LEVEL:
        return
    if silent or abs(level * alpha / sigma - 1) > 1e-3:
        expected = f"{START_LEVEL:g} or above" if silent else f"{sigma / alpha:.6g}"
        raise ValueError(
            f"this solver starts at sigma / alpha = {level:.6g}, the process "
            f"{type(sde).__name__} at {expected}; use the process it was fitted for, or fit it anew"
        )


class FewStepsCoefficients(NamedTuple):
    """The coefficients of one step; in a plan each has the leading axis `steps`."""

    network_t: Array  # the time that the network is given
    network_scale: Array  # alpha there over alpha at the state
    keep: Array  # sigma_s / sigma_t, of the state
    data: Array  # alpha_s - keep alpha_t, of the weighted data predictions
    weights: Array  # (n,) of the data predictions, oldest first
    step: Array  # the number of this step


class _FewStepsSampler(Sampler):
    """The steps of a solver; the grid only says how many there are."""

    order: ClassVar[int] = 1
    solver: FewSteps

    def plan(self, sde: SDE, ts: Array) -> FewStepsCoefficients:
        levels = jnp.asarray(self.solver.noise_levels)
        n = self.solver.nfe
        clean = levels[1:] <= 0
        alpha, sigma = signal_and_noise(sde, ts)
        alpha_s = jnp.where(clean, 1.0, alpha[1:])
        sigma_s = jnp.where(clean, 0.0, sigma[1:])
        keep = sigma_s / sigma[:-1]
        network_t = sde.time_of_level(self.solver.network_levels)
        network_alpha, _ = signal_and_noise(sde, network_t)
        return FewStepsCoefficients(
            network_t=network_t,
            network_scale=network_alpha / alpha[:-1],
            keep=keep,
            data=alpha_s - keep * alpha[:-1],
            weights=jnp.asarray(self.solver.weights),
            step=jnp.arange(n),
        )

    def init(self, x: Array) -> Array:
        return jnp.zeros((self.solver.nfe, *x.shape), x.dtype)

    def step(self, keys, denoise, x, coefficients: FewStepsCoefficients, memory, cond):
        del keys
        x0 = denoise(coefficients.network_scale * x, coefficients.network_t, cond).x0
        memory = memory.at[coefficients.step.astype(int)].set(x0)
        x0 = jnp.tensordot(coefficients.weights, memory, 1)
        return coefficients.keep * x + coefficients.data * x0, memory
