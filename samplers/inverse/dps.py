r"""DPS, diffusion posterior sampling (Chung et al. 2023, arXiv:2209.14687, algorithm 1).

After each step of a sampler of the prior, the state moves down the gradient of the misfit of the
expected clean data,

.. math:: x_s \leftarrow x_s - \zeta \nabla_{x_t} \| y - A(\hat x_0(x_t)) \| .

The norm is that of one sample, so that no sample depends on its batch.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, Estimate, record_evaluations
from sde_lib.inverse.measurement import check_fits

from ..ancestral import Ancestral
from ..base import Sampler
from ..checks import check_number
from ..one_step import OneStep, OneStepCoefficients
from .conditioning import per_sample


class DPS(Sampler):
    """Diffusion posterior sampling; two evaluations a step, one of them a product.

    Walk it with a `PriorDenoiser` and a `Measurement` as the conditions. Its step size is a matter
    of trial: what it samples is the posterior for no choice of it.

    Attributes:
        operator: maps one sample to its measurement, linear or not.
        step_size: zeta; the paper takes about 1 for images in [-1, 1].
        sampler: a one-step sampler of the prior.
    """

    operator: Callable[[Array], Array]
    step_size: float = 1.0
    sampler: OneStep = Ancestral()
    order: ClassVar[int] = 1

    def __check_init__(self):
        check_number("need step_size >= 0", lambda v: v >= 0, step_size=self.step_size)
        if not isinstance(self.sampler, OneStep):
            raise ValueError(
                "DPS steps with a sampler of one evaluation a step, such as Ancestral() or "
                f"DDIM(), got {self.sampler!r}"
            )

    @property
    def stochastic(self) -> bool:
        """Whether the sampler of the prior draws noise."""
        return self.sampler.stochastic

    def plan(self, sde: SDE, ts: Array) -> OneStepCoefficients:
        """Return the coefficients of the sampler of the prior; see `Sampler.plan`."""
        return self.sampler.plan(sde, ts)

    def step(
        self, keys, denoise, x: Array, coefficients: OneStepCoefficients, memory: Any, cond: Any
    ) -> tuple[Array, Any]:
        """Take a step of the prior and one down the misfit; see `Sampler.step`."""

        def total_misfit(x: Array) -> tuple[Array, Estimate]:
            estimate = denoise(x, coefficients.t, cond)
            return jnp.sum(per_sample(self.operator, cond, _misfit)(estimate.x0)), estimate

        # The gradient of the sum is that of each sample's own misfit: no sample sees another.
        (_, estimate), gradient = jax.value_and_grad(total_misfit, has_aux=True)(x)
        record_evaluations()
        x, memory = self.sampler.step(keys, lambda *_: estimate, x, coefficients, memory, cond)
        return x - self.step_size * gradient, memory


def _misfit(operator: Callable[[Array], Array], y: Array, x0: Array) -> Array:
    """Return |y - A(x0)| of one sample; its gradient is 0 where the misfit is."""
    predicted = operator(x0)
    check_fits(y, predicted)
    square = jnp.sum((y - predicted) ** 2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
