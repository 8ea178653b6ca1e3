"""Predictor-corrector sampling (Song et al. 2021, arXiv:2011.13456, algorithm 1): at each time first the corrector, then the predictor."""

from typing import Any, NamedTuple

from jax import Array

from sde_lib import SDE

from .base import Sampler, fold


class Pair(NamedTuple):
    """Rows of the plan, or memory, of the two parts."""

    predictor: Any
    corrector: Any


class PredictorCorrector(Sampler):
    """Any two samplers in turn, the corrector at t and then the predictor from t to s; itself a sampler."""

    predictor: Sampler
    corrector: Sampler

    def __check_init__(self):
        for name, part in (("predictor", self.predictor), ("corrector", self.corrector)):
            if not isinstance(part, Sampler):
                raise ValueError(
                    f"the {name} is a sampler such as EulerMaruyama() or Langevin(snr=0.16), got {part!r}"
                )
        if self.predictor.stays or not self.corrector.stays:
            raise ValueError(
                "the predictor goes on to the next time, as EulerMaruyama() does, and the corrector stays at its own, as "
                f"Langevin(snr=0.16) does (Sampler.stays); got predictor = {self.predictor!r} and corrector = {self.corrector!r}"
            )

    @property
    def order(self) -> int:
        return self.predictor.order

    @property
    def stochastic(self) -> bool:
        return self.predictor.stochastic or self.corrector.stochastic

    def plan(self, sde: SDE, ts: Array) -> Pair:
        return Pair(self.predictor.plan(sde, ts), self.corrector.plan(sde, ts))

    def init(self, x: Array) -> Pair:
        return Pair(self.predictor.init(x), self.corrector.init(x))

    def step(
        self, keys, denoise, x: Array, row: Pair, memory: Pair, cond: Any
    ) -> tuple[Array, Pair]:
        x, corrector = self.corrector.step(
            fold(keys, 1), denoise, x, row.corrector, memory.corrector, cond
        )
        x, predictor = self.predictor.step(
            fold(keys, 0), denoise, x, row.predictor, memory.predictor, cond
        )
        return x, Pair(predictor, corrector)
