r"""Replacement (Song et al. 2021, arXiv:2011.13456, appendix I): inpainting and colourisation.

After each step of a sampler of the prior, what is measured of the state is replaced by the
measurement with the noise of that time,

.. math:: x_s \leftarrow x_s + A^+ (\alpha_s y + \sigma_s A z - A x_s).

The unknown part never learns that it was moved, so that the samples agree with the measurement but
are not of the posterior.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from sde_lib import SDE
from sde_lib.inverse.measurement import check_fits

from ..base import Sampler, fold, normal
from .conditioning import least_change, per_sample

_NOISE = 0x5E91ACED  # folded into the key of a step for the noise of the measurement


class ReplacementCoefficients(NamedTuple):
    """Those of one step, or in a plan of all."""

    of_sampler: Any
    alpha_s: Array
    sigma_s: Array


class Replacement(Sampler):
    """A sampler of the prior whose measured part is replaced after each step.

    Walk it with a `PriorDenoiser` and a `Measurement` as the conditions. The walk ends with the
    denoiser's estimate, which holds no noise in the unknown part either.

    Attributes:
        operator: linear, maps one sample to its measurement.
        sampler: a sampler of the prior.
    """

    operator: Callable[[Array], Array]
    sampler: Sampler

    def __check_init__(self):
        check_inner("Replacement", self.sampler)

    @property
    def order(self) -> int:
        """That of the sampler of the prior."""
        return self.sampler.order

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; it does, that of the measured part."""
        return True

    def plan(self, sde: SDE, ts: Array) -> ReplacementCoefficients:
        """Return the coefficients of the sampler, and the ends of its steps; see `Sampler.plan`."""
        alpha, sigma = sde.marginal(ts[1:])
        return ReplacementCoefficients(
            of_sampler=self.sampler.plan(sde, ts), alpha_s=alpha, sigma_s=sigma
        )

    def init(self, x: Array) -> Any:
        """Return the memory of the sampler of the prior; see `Sampler.init`."""
        return self.sampler.init(x)

    def step(
        self,
        keys,
        denoise,
        x: Array,
        coefficients: ReplacementCoefficients,
        memory: Any,
        cond: Any,
    ) -> tuple[Array, Any]:
        """Take a step of the prior and replace the measured part; see `Sampler.step`."""
        x, memory = self.sampler.step(keys, denoise, x, coefficients.of_sampler, memory, cond)
        noise = coefficients.sigma_s * normal(fold(keys, _NOISE), x)

        def replaced(operator, y, x, noise):
            predicted, of_noise = jax.jvp(operator, (x,), (noise,))
            check_fits(y, predicted)
            target = coefficients.alpha_s * y + of_noise
            return least_change(operator, target, x, 0.0)

        return per_sample(self.operator, cond, replaced)(x, noise), memory


def check_inner(user: str, sampler: Any) -> None:
    """Raise a ValueError unless a sampler of the prior goes on in time."""
    if not isinstance(sampler, Sampler) or sampler.is_corrector:
        raise ValueError(
            f"{user} steps with a sampler of the prior such as Ancestral() or DDIM(), "
            f"got {sampler!r}"
        )
