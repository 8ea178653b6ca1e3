"""Predictor-corrector sampling: at each time first the corrector, then the predictor.

The order is that of Song et al. 2021, arXiv:2011.13456, algorithm 1.
"""

from typing import Any, NamedTuple

from jax import Array

from sde_lib import SDE

from .base import Sampler, fold


class Pair(NamedTuple):
    """The coefficients, or the memory, of the two parts."""

    predictor: Any
    corrector: Any


class PredictorCorrector(Sampler):
    """Two samplers in turn, the corrector at t and then the predictor from t to s.

    It is itself a sampler.

    Attributes:
        predictor: a sampler that goes on to the next time.
        corrector: a sampler that stays at its time, such as `Langevin`.
    """

    predictor: Sampler
    corrector: Sampler

    def __check_init__(self):
        for name, part in (("predictor", self.predictor), ("corrector", self.corrector)):
            if not isinstance(part, Sampler):
                raise ValueError(
                    f"the {name} is a sampler such as EulerMaruyama() or Langevin(snr=0.16), "
                    f"got {part!r}"
                )
        if self.predictor.is_corrector or not self.corrector.is_corrector:
            raise ValueError(
                "the predictor goes on to the next time, as EulerMaruyama() does, and the "
                "corrector stays at its own, as Langevin(snr=0.16) does (Sampler.is_corrector); "
                f"got predictor = {self.predictor!r} and corrector = {self.corrector!r}"
            )

    @property
    def order(self) -> int:
        """That of the predictor."""
        return self.predictor.order

    @property
    def stochastic(self) -> bool:
        """Whether one of the two parts draws noise."""
        return self.predictor.stochastic or self.corrector.stochastic

    def plan(self, sde: SDE, ts: Array) -> Pair:
        """Return the plans of both parts on the same grid; see `Sampler.plan`."""
        return Pair(
            predictor=self.predictor.plan(sde, ts),
            corrector=self.corrector.plan(sde, ts),
        )

    def init(self, x: Array) -> Pair:
        """Return the memories of both parts; see `Sampler.init`."""
        return Pair(predictor=self.predictor.init(x), corrector=self.corrector.init(x))

    def step(
        self, keys, denoise, x: Array, coefficients: Pair, memory: Pair, cond: Any
    ) -> tuple[Array, Pair]:
        """Correct at t, then go on to s, each with keys of its own; see `Sampler.step`."""
        x, corrector = self.corrector.step(
            fold(keys, 1), denoise, x, coefficients.corrector, memory.corrector, cond
        )
        x, predictor = self.predictor.step(
            fold(keys, 0), denoise, x, coefficients.predictor, memory.predictor, cond
        )
        return x, Pair(predictor=predictor, corrector=corrector)
