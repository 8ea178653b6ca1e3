"""The methods of `--mode=restore` by name: how each walks from noise to samples of the posterior.

A posterior denoiser is walked by a solver of the reverse SDE. Methods that bring in the measurement
themselves are samplers. TDS moves all samples of one observation together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import samplers.inverse
import sde_lib.inverse
from samplers import DDIM, Sampler, Samples, draw_prior, grids, sample
from samplers.data_size import end_time
from samplers.inverse import Replacement, twisted
from sde_lib import SDE, Denoise
from sde_lib.inverse import Measurement, PosteriorDenoiser, PriorDenoiser

from .objects import make
from .operators import Measured

LINEAR = 1e-4  # by which a linear operator may differ from its tangent, relative to its size


class Problem(NamedTuple):
    """The prior, and what is measured."""

    denoise: Denoise
    sde: SDE
    measured: Measured
    std: float  # of the noise
    sd: float  # of the data


class Observed(NamedTuple):
    """The samples of one batch, by the observations that they belong to."""

    y: Array  # (batch, ...)
    cond: Any  # of the network, None or a pytree with leading axis batch
    index: Array  # (batch,) the number of each sample in its run
    key: Array  # of the run


Steer = Callable[[Problem, dict[str, Any]], tuple[Sampler, Denoise]]


class Walk(NamedTuple):
    """A method that walks each sample by itself.

    Attributes:
        steer: returns the sampler and the denoise function that it walks with.
        steps: by default.
        linear: tells by its settings whether it needs a linear operator.
    """

    steer: Steer
    steps: int
    linear: Callable[[dict[str, Any]], bool] = lambda settings: False

    def parts(self, observations: int, samples: int, batch_size: int) -> list[np.ndarray]:
        """Return the numbers of the samples of each batch; the last one may run over the end."""
        total = observations * samples
        size = min(batch_size, total)
        return [first + np.arange(size) for first in range(0, total, size)]

    def check(self, problem: Problem, settings: dict[str, Any], steps: int) -> None:
        """Raise a ValueError if the method cannot be built, or needs a linear operator."""
        if self.linear(settings):
            check_linear(problem.measured)
        self.steer(problem, settings)
        _grid(problem, steps)

    def draw(
        self,
        problem: Problem,
        settings: dict[str, Any],
        steps: int,
        observed: Observed,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Return samples (batch, ...) of the posterior of each observation."""
        sampler, denoise = self.steer(problem, settings)
        shape = (len(observed.y), *problem.measured.example)
        x = draw_prior(observed.key, problem.sde, shape, observed.index)
        return sample(
            observed.key,
            sampler,
            denoise,
            problem.sde,
            _grid(problem, steps),
            x,
            cond=Measurement(observed.y, observed.cond),
            index=observed.index,
            progress=progress,
        )


def _grid(problem: Problem, steps: int) -> np.ndarray:
    """Return times with equal steps in the log-SNR, to where noise is hardly felt."""
    sd = problem.sd
    return grids.log_snr(problem.sde, steps, end=end_time(problem.sde, sd), sd=sd)


def _posterior(name: str) -> Steer:
    """Return the method of a posterior denoiser.

    JFPS is the default, as it needs no product with the network's Jacobian: one evaluation a step.
    MMPS costs nine and comes nearer to the posterior.

    Its setting `tau` is the noise of the `SASolver` that walks it, 1 by default. Of the order 2, it
    keeps the variance of the posterior at 25 steps; DDIM, of the order 1, loses a sixth of the
    standard deviation there and a twelfth at 50.
    """

    def steer(problem: Problem, settings: dict[str, Any]) -> tuple[Sampler, Denoise]:
        own = dict(settings)
        sampler = make(samplers, {"name": "SASolver", "tau": own.pop("tau", 1.0)}, Sampler)
        denoise = make(
            sde_lib.inverse,
            {"name": name, **own},
            PosteriorDenoiser,
            denoise=problem.denoise,
            sde=problem.sde,
            operator=problem.measured.operator,
            std=problem.std,
        )
        return sampler, denoise

    return steer


def _steered(name: str, **of_problem: Callable[[Problem], Any]) -> Steer:
    """Return the method of a sampler that takes `of_problem` beside the operator."""

    def steer(problem: Problem, settings: dict[str, Any]) -> tuple[Sampler, Denoise]:
        extra = {key: value(problem) for key, value in of_problem.items()}
        sampler = make(samplers.inverse, {"name": name, **settings}, Sampler, **extra)
        return sampler, PriorDenoiser(problem.denoise)

    return steer


def _operator(problem: Problem) -> Any:
    return problem.measured.operator


def _std(problem: Problem) -> float:
    return problem.std


def _prior(problem: Problem) -> Sampler:
    """Return the sampler of the prior inside of a method: it can start at pure noise."""
    del problem
    return DDIM(eta=1.0)


def _replacement(problem: Problem) -> Replacement:
    return Replacement(operator=problem.measured.operator, sampler=_prior(problem))


def _always(settings: dict[str, Any]) -> bool:
    del settings
    return True


def _without_langevin(settings: dict[str, Any]) -> bool:
    return not settings.get("langevin_steps")


class Particles(NamedTuple):
    """TDS, whose particles all serve one observation; a sample is one of them.

    Attributes:
        steps: by default.
    """

    steps: int

    def parts(self, observations: int, samples: int, batch_size: int) -> list[np.ndarray]:
        """Return the numbers of the samples of each observation."""
        del batch_size
        return [first + np.arange(samples) for first in range(0, observations * samples, samples)]

    def check(self, problem: Problem, settings: dict[str, Any], steps: int) -> None:
        """Raise a ValueError if TDS has no such setting, or needs a linear operator."""
        if unknown := sorted(settings.keys() - PARTICLES.keys()):
            raise ValueError(
                f"tds has no setting {', '.join(unknown)}; it takes {', '.join(PARTICLES)}"
            )
        check_linear(problem.measured)
        _grid(problem, steps)

    def draw(
        self,
        problem: Problem,
        settings: dict[str, Any],
        steps: int,
        observed: Observed,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Return samples (batch, ...) of the posterior of one observation."""
        number = len(observed.y)
        own = PARTICLES | settings
        if own["particles"] * own["islands"] < number:
            raise ValueError(
                f"{number} samples are more than {own['islands']} islands of {own['particles']} "
                "particles have; raise particles"
            )
        result = twisted(
            jax.random.fold_in(observed.key, observed.index[0]),
            problem.denoise,
            problem.sde,
            _grid(problem, steps),
            problem.measured.operator,
            observed.y[0],
            problem.std,
            problem.measured.example,
            cov=np.asarray(problem.sd**2),
            cond=jax.tree.map(lambda c: c[0], observed.cond),
            **own,
        )
        if progress is not None:
            progress(steps, steps)
        return Samples(x=result.x[:number], nfe=result.nfe, path=None)


PARTICLES = {"particles": 64, "islands": 4, "threshold": 0.5}  # of TDS, by default

METHODS: dict[str, Walk | Particles] = {
    "mmps": Walk(_posterior("MMPS"), steps=30),
    "tmpd": Walk(_posterior("TMPD"), steps=50),
    "pigdm": Walk(_posterior("PiGDM"), steps=50),
    "jfps": Walk(_posterior("JFPS"), steps=50),
    "diffpir": Walk(_posterior("DiffPIR"), steps=50),
    "ddnm": Walk(_posterior("DDNM"), steps=50),
    "dps": Walk(_steered("DPS", operator=_operator, sampler=_prior), steps=200),
    "daps": Walk(_steered("DAPS", operator=_operator, std=_std), 50, _without_langevin),
    "split_gibbs": Walk(_steered("SplitGibbs", operator=_operator, std=_std), 40, _always),
    "replacement": Walk(
        _steered("Replacement", operator=_operator, sampler=_prior), steps=100, linear=_always
    ),
    "repaint": Walk(_steered("RePaint", replacement=_replacement), steps=50, linear=_always),
    "tds": Particles(steps=100),
}


def check_linear(measured: Measured) -> None:
    """Raise a ValueError unless an operator is linear, but for a constant."""
    operator = measured.operator
    zero = jnp.zeros(measured.example)
    trial = jax.random.normal(jax.random.key(0), measured.example)
    constant, tangent = jax.jvp(operator, (zero,), (trial,))
    error = float(jnp.max(jnp.abs(operator(trial) - constant - tangent)))
    if not error <= LINEAR * (1 + float(jnp.max(jnp.abs(tangent)))):
        raise ValueError(
            f"this method needs a linear operator, but this one differs from its tangent by "
            f"{error:.2g}; take mmps or dps, which take any, or daps with langevin_steps=50"
        )
