r"""Split Gibbs sampling (DPnP, Xu & Chi 2024, arXiv:2403.17042; PnP-DM, Wu et al. 2024,
arXiv:2405.18782).

Clean data x and a copy u that sees the measurement are held together by a Gaussian of width
:math:`\eta`, which falls along the grid: a level :math:`\eta = \sigma / \alpha` is a time. In turn,

.. math:: x \sim p(x \mid x_t = \alpha u), \qquad
    u \sim \mathcal{N}(u; x, \eta^2 I)\, p(y \mid u) .

The first is a walk of the reverse SDE from t; the second is an exact draw for a linear operator.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from jax import Array

from sde_lib import SDE

from ..base import Sampler, fold
from ..checks import check_count, check_number
from ..ddim import DDIM
from .conditioning import conditional_draw, per_sample
from .inner import inner_plan, walk_down

_DRAW = 0x5B1B  # folded into the key of a step


class SplitGibbsCoefficients(NamedTuple):
    """Those of one round, or in a plan of all."""

    inner: Any  # of the walk to clean data
    alpha_end: Array  # at its end
    alpha_s: Array
    variance: Array  # eta^2 at s


class SplitGibbs(Sampler):
    """Split Gibbs sampling; a round is a step of the grid.

    Walk it with a `PriorDenoiser` and a `Measurement` as the conditions, on a grid that stays at
    its levels long enough. The joint law of x and u tends to the posterior as the level falls.

    Attributes:
        operator: linear, maps one sample to its measurement.
        std: standard deviation of the measurement noise.
        inner_steps: network evaluations of a round, those of the reverse SDE.
        end: the noise level at which the reverse SDE ends.
    """

    operator: Callable[[Array], Array]
    std: float | Array
    inner_steps: int = 20
    end: float = 0.01
    order: ClassVar[int] = 1

    def __check_init__(self):
        check_number("need std > 0", lambda v: v > 0, std=self.std)
        check_count(inner_steps=self.inner_steps)
        check_number("need end > 0", lambda v: v > 0, end=self.end)

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; it does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> SplitGibbsCoefficients:
        """Return the coefficients of the inner walks and of the levels; see `Sampler.plan`."""
        inner, alpha_end = inner_plan(_REVERSE, sde, ts, self.inner_steps, self.end)
        alpha, sigma = sde.marginal(ts[1:])
        return SplitGibbsCoefficients(
            inner=inner,
            alpha_end=alpha_end,
            alpha_s=alpha,
            variance=(sigma / alpha) ** 2,
        )

    def step(
        self, keys, denoise, x: Array, coefficients: SplitGibbsCoefficients, memory: Any, cond: Any
    ) -> tuple[Array, Any]:
        """Draw clean data given the copy, then the copy given those; see `Sampler.step`."""
        clean = walk_down(
            _REVERSE, keys, denoise, x, coefficients.inner, coefficients.alpha_end, cond
        )

        def draw(operator, y, key, clean):
            return conditional_draw(operator, y, key, clean, coefficients.variance, self.std)

        copy = per_sample(self.operator, cond, draw)(fold(keys, _DRAW), clean)
        return coefficients.alpha_s * copy, memory


_REVERSE = DDIM(eta=1.0)
