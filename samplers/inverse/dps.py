r"""DPS, diffusion posterior sampling (Chung et al. 2023, arXiv:2209.14687, algorithm 1).

After each step of a sampler of the prior, the state moves down the gradient of the misfit of the
expected clean data,

.. math:: x_s \leftarrow x_s - \zeta \nabla_{x_t} \| y - A(\hat x_0(x_t)) \| .

The norm is that of one sample, so that no sample depends on its batch.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, Estimate, record_evaluations
from sde_lib.inverse.measurement import check_fits, check_measurement
from sde_lib.inverse.parts import PARTS, map_in_parts

from ..ancestral import Ancestral
from ..base import Sampler
from ..checks import check_count, check_number
from ..one_step import OneStep, OneStepCoefficients


class DPS(Sampler):
    """Diffusion posterior sampling; two evaluations a step, one of them a product.

    Walk it with a `PriorDenoiser` and a `Measurement` as the conditions. Its step size is a matter
    of trial: what it samples is the posterior for no choice of it.

    Attributes:
        operator: maps one sample to its measurement, linear or not.
        step_size: zeta; the paper takes about 1 for images in [-1, 1].
        sampler: a one-step sampler of the prior.
        parts: in how many parts, one after the other, the gradients of a batch are taken, if that
            divides the batch. With 1 they are the fastest on an accelerator that has the memory.
    """

    operator: Callable[[Array], Array]
    step_size: float = 1.0
    sampler: OneStep = Ancestral()
    parts: int = eqx.field(default=PARTS, static=True)
    order: ClassVar[int] = 1

    def __check_init__(self):
        check_number("need step_size >= 0", lambda v: v >= 0, step_size=self.step_size)
        check_count(parts=self.parts)
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

        def looked_at(x: Array, cond: Any) -> tuple[Array, Estimate]:
            """Return the gradient of the misfit of one sample, and its estimate."""
            alone = jax.tree.map(lambda a: a[None], cond)
            operator = cond.operator_or(self.operator)

            def misfit(x: Array) -> tuple[Array, Estimate]:
                estimate = denoise(x[None], coefficients.t, alone)
                estimate = jax.tree.map(lambda a: a[0], estimate)
                return _misfit(operator, cond.y, estimate.x0), estimate

            return jax.grad(misfit, has_aux=True)(x)

        check_measurement(cond)
        gradient, estimate = map_in_parts(looked_at, self.parts, x, cond)
        record_evaluations()
        x, memory = self.sampler.step(keys, lambda *_: estimate, x, coefficients, memory, cond)
        return x - self.step_size * gradient, memory


def _misfit(operator: Callable[[Array], Array], y: Array, x0: Array) -> Array:
    """Return |y - A(x0)| of one sample; its gradient is 0 where the misfit is."""
    predicted = operator(x0)
    check_fits(y, predicted)
    square = jnp.sum((y - predicted) ** 2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
