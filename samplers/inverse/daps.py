r"""DAPS, decoupled annealing posterior sampling (Zhang et al. 2024, arXiv:2407.01521, algorithm 1).

At each noise level the probability flow is solved down to clean data :math:`\hat x_0`, which is
taken for the middle of a Gaussian of the level's width,

.. math:: p(x_0 \mid x_t, y) \propto \mathcal{N}(x_0; \hat x_0, (\sigma_t / \alpha_t)^2 I)
    \, p(y \mid x_0),

and a draw of that, with fresh noise, is the state at the next level. For a linear operator the draw
is exact. For others it is made by Langevin steps.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from jax import Array

from sde_lib import SDE

from ..base import Sampler, fold, normal
from ..checks import check_count, check_number
from ..ddim import DDIM
from .conditioning import conditional_draw, per_sample
from .inner import inner_plan, walk_down
from .langevin_draw import langevin_draw

_DRAW, _NOISE = 0xDA95, 0xDA96  # folded into the key of a step


class DAPSCoefficients(NamedTuple):
    """Those of one step, or in a plan of all."""

    inner: Any  # of the walk to clean data
    alpha_end: Array  # at its end
    variance: Array  # of clean data around its end, the squared noise level at t
    alpha_s: Array
    sigma_s: Array


class DAPS(Sampler):
    """Decoupled annealing.

    Walk it with a `PriorDenoiser` and a `Measurement` as the conditions; a grid of 50 to 200 steps
    down to a tenth of the data's size is usual.

    Attributes:
        operator: maps one sample to its measurement.
        std: standard deviation of the measurement noise.
        inner_steps: network evaluations of a step, those of the probability flow.
        end: the noise level at which the flow ends.
        langevin_steps: 0 for an exact draw, which needs a linear operator; else how many Langevin
            steps, which call no network, make the draw.
        langevin_rate: their step size, relative to what is stable for a linear operator of norm 1.
    """

    operator: Callable[[Array], Array]
    std: float | Array
    inner_steps: int = 5
    end: float = 0.01
    langevin_steps: int = 0
    langevin_rate: float = 0.1
    order: ClassVar[int] = 1

    def __check_init__(self):
        check_number("need std > 0", lambda v: v > 0, std=self.std)
        check_count(inner_steps=self.inner_steps)
        check_number("need end > 0", lambda v: v > 0, end=self.end)
        check_count(0, langevin_steps=self.langevin_steps)
        check_number("need langevin_rate > 0", lambda v: v > 0, langevin_rate=self.langevin_rate)

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; it does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> DAPSCoefficients:
        """Return the coefficients of the inner walks and of the levels; see `Sampler.plan`."""
        inner, alpha_end = inner_plan(DDIM(), sde, ts, self.inner_steps, self.end)
        alpha, sigma = sde.marginal(ts)
        return DAPSCoefficients(
            inner=inner,
            alpha_end=alpha_end,
            variance=(sigma[:-1] / alpha[:-1]) ** 2,
            alpha_s=alpha[1:],
            sigma_s=sigma[1:],
        )

    def step(
        self, keys, denoise, x: Array, coefficients: DAPSCoefficients, memory: Any, cond: Any
    ) -> tuple[Array, Any]:
        """Solve to clean data, draw given the measurement, add noise; see `Sampler.step`."""
        clean = walk_down(
            DDIM(), keys, denoise, x, coefficients.inner, coefficients.alpha_end, cond
        )

        def draw(operator, y, key, clean):
            if not self.langevin_steps:
                return conditional_draw(operator, y, key, clean, coefficients.variance, self.std)
            return langevin_draw(
                operator,
                y,
                key,
                clean,
                variance=coefficients.variance,
                std=self.std,
                steps=self.langevin_steps,
                rate=self.langevin_rate,
            )

        x0 = per_sample(self.operator, cond, draw)(fold(keys, _DRAW), clean)
        noise = normal(fold(keys, _NOISE), x)
        return coefficients.alpha_s * x0 + coefficients.sigma_s * noise, memory
