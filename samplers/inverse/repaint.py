r"""RePaint (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1): replacement with resampling.

Each step from t to s is made several times, with the forward process from s back to t in between,
so that the unknown part of the state learns of the measured one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, repeat_evaluations

from ..base import Sampler, fold, normal
from ..checks import check_count
from ..one_step import transitions
from .replacement import Replacement, ReplacementCoefficients

_BACK = 0xBAC4  # folded into a key for the noise of the way back


class RePaintCoefficients(NamedTuple):
    """Those of one step, or in a plan of all."""

    of_step: ReplacementCoefficients
    ratio: Array  # of the forward process from s back to t
    noise_scale: Array  # of its fresh noise


class RePaint(Sampler):
    """Replacement, with each step repeated.

    Walk it with a `PriorDenoiser` and a `Measurement` as the conditions.

    Attributes:
        replacement: the step that is repeated.
        repeats: how often each step is made; the paper takes 10.
    """

    replacement: Replacement
    repeats: int = 10

    def __check_init__(self):
        check_count(repeats=self.repeats)
        if not isinstance(self.replacement, Replacement):
            raise ValueError(
                "RePaint repeats the steps of a Replacement(operator, sampler), "
                f"got {self.replacement!r}"
            )

    @property
    def order(self) -> int:
        """That of the sampler of the prior."""
        return self.replacement.order

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; it does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> RePaintCoefficients:
        """Return the coefficients of the steps and of the ways back; see `Sampler.plan`."""
        forward = transitions(sde, ts)
        return RePaintCoefficients(
            of_step=self.replacement.plan(sde, ts),
            ratio=forward.ratio,
            noise_scale=jnp.sqrt(forward.variance),
        )

    def init(self, x: Array) -> Any:
        """Return the memory of the sampler of the prior; see `Sampler.init`."""
        return self.replacement.init(x)

    def step(
        self, keys, denoise, x: Array, coefficients: RePaintCoefficients, memory: Any, cond: Any
    ) -> tuple[Array, Any]:
        """Make the step `repeats` times, each with the memory of before; see `Sampler.step`."""

        def made(repeat: Any, x: Array) -> tuple[Array, Any]:
            of_repeat = fold(keys, repeat)
            return self.replacement.step(of_repeat, denoise, x, coefficients.of_step, memory, cond)

        def made_and_undone(repeat: Any, x: Array) -> Array:
            x_s, _ = made(repeat, x)
            noise = normal(fold(fold(keys, repeat), _BACK), x)
            return coefficients.ratio * x_s + coefficients.noise_scale * noise

        again = self.repeats - 1
        with repeat_evaluations(again):
            x = jax.lax.fori_loop(0, again, made_and_undone, x)
        return made(again, x)
