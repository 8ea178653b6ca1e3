"""The methods that the benchmark of posteriors compares, each with the settings that it runs with.

A method draws samples for all measurements of a `Task`, with the exact denoiser of its prior.
Settings were chosen on `posterior_problems.problems()`, where there was anything to choose.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samplers import Ancestral, SASolver, draw_prior, grids, sample
from samplers.inverse import DAPS, DPS, RePaint, Replacement, SplitGibbs, twisted
from sde_lib import VP, DataDistribution, Gaussian, GaussianMixture
from sde_lib.exact.gaussian import covariance
from sde_lib.inverse import (
    DDNM,
    JFPS,
    MMPS,
    TMPD,
    Covariance,
    DiffPIR,
    Measurement,
    PiGDM,
    PriorDenoiser,
    Projection,
)

from .posterior_problems import PosteriorProblem

SDE = VP()
SEED = 0
PARTS = 8  # of mixtures: as many as any problem has in 2 and in 16 dimensions
PARTS_OF_IMAGES = 4  # in 64


class Drawn(NamedTuple):
    """Samples for each measurement, and what they cost."""

    x: np.ndarray  # (measurements, number, d)
    nfe: int
    seconds: float  # compilation included
    log_evidence: np.ndarray | None = None  # (measurements,)
    log_evidence_error: np.ndarray | None = None


class Task(NamedTuple):
    """A problem with its measurements."""

    problem: PosteriorProblem
    y: np.ndarray  # (measurements, m)
    number: int  # of samples for each

    @property
    def operator(self) -> Projection:
        """The operator, which is the same for all."""
        return Projection(jnp.asarray(self.problem.matrix, jnp.float32))

    @property
    def std(self) -> jax.Array:
        """The noise's standard deviation as an array, so that no program is made for its value."""
        return jnp.asarray(self.problem.noise_std, jnp.float32)

    @property
    def denoise(self) -> Any:
        """The exact denoiser of the prior."""
        return alike(self.problem.data).denoiser(SDE)

    @property
    def cov(self) -> np.ndarray:
        """The covariance of the data."""
        return np.asarray(self.problem.data.data_moments().cov)


def alike(data: DataDistribution) -> DataDistribution:
    """Return the same law as a mixture of a number of parts that depends on the dimension alone.

    The heaviest part is split into equal ones. Problems of one shape then share their compiled
    programs, which take most of the time of a problem. Other laws are returned as they are.
    """
    if isinstance(data, Gaussian):
        cov = np.asarray(covariance(data.basis, data.variances), np.float64)
        return _split(np.ones(1), data.mean[None], cov[None])
    if isinstance(data, GaussianMixture):
        bases = data.bases
        covs = np.einsum("kij,kj,klj->kil", bases, data.variances, bases)
        return _split(data.weights, data.means, covs)
    return data


def _split(weights: np.ndarray, means: np.ndarray, covs: np.ndarray) -> GaussianMixture:
    """Return the mixture with its heaviest part split."""
    parts = PARTS_OF_IMAGES if means.shape[1] > 16 else PARTS
    heaviest = int(np.argmax(weights))
    copies = np.ones(len(weights), int)
    copies[heaviest] += max(0, parts - len(weights))
    return GaussianMixture(
        weights=np.repeat(weights / copies, copies),
        means=np.repeat(means, copies, axis=0),
        covs=np.repeat(covs, copies, axis=0),
    )


def walked(task: Task, sampler: Any, denoise: Any, steps: int) -> Drawn:
    """Walk all samples of all measurements in one batch."""
    measurements, number = len(task.y), task.number
    y = jnp.asarray(np.repeat(task.y, number, axis=0), jnp.float32)
    x = draw_prior(jax.random.key(SEED), SDE, (len(y), task.problem.matrix.shape[1]))
    ts = grids.log_snr(SDE, steps)
    start = time.perf_counter()
    samples = sample(jax.random.key(SEED), sampler, denoise, SDE, ts, x, cond=Measurement(y))
    x = np.asarray(samples.x, np.float64).reshape(measurements, number, -1)
    return Drawn(x=x, nfe=int(samples.nfe), seconds=time.perf_counter() - start)


def by_denoiser(cls: type, steps: int = 100, **settings: Any) -> Callable[[Task], Drawn]:
    """Return the method that walks with a denoiser of the posterior."""

    def draw(task: Task) -> Drawn:
        more: dict[str, Any] = {"cov": Covariance.of(task.cov)} if cls is JFPS else {}
        method = cls(task.denoise, SDE, task.operator, task.std, **settings, **more)
        return walked(task, SASolver(), method, steps)

    return draw


def by_sampler(make: Callable[[Task], Any], steps: int = 100) -> Callable[[Task], Drawn]:
    """Return the method that walks with a sampler which brings in the measurement."""

    def draw(task: Task) -> Drawn:
        denoise = PriorDenoiser(task.denoise)
        return walked(task, make(task), denoise, steps)

    return draw


def by_particles(steps: int, particles: int, islands: int) -> Callable[[Task], Drawn]:
    """Return the method that draws weighted particles for one measurement after the other."""

    def draw(task: Task) -> Drawn:
        start = time.perf_counter()
        results = [
            twisted(
                jax.random.fold_in(jax.random.key(SEED), number),
                task.denoise,
                SDE,
                grids.log_snr(SDE, steps),
                task.operator,
                jnp.asarray(y, jnp.float32),
                task.std,
                (task.problem.matrix.shape[1],),
                particles=particles,
                islands=max(2, islands // task.problem.cost),
                cov=task.cov,
            )
            for number, y in enumerate(task.y)
        ]
        x = np.stack([np.asarray(r.x[: task.number], np.float64) for r in results])
        return Drawn(
            x=x,
            nfe=int(results[0].nfe),
            seconds=time.perf_counter() - start,
            log_evidence=np.array([float(r.log_evidence) for r in results]),
            log_evidence_error=np.array([float(r.log_evidence_error) for r in results]),
        )

    return draw


def mmps(task: Task) -> Drawn:
    """Run MMPS until its products add nothing: in exact arithmetic as many as numbers measured."""
    return by_denoiser(MMPS, iterations=min(16, len(task.problem.matrix)))(task)


def exactly(task: Task, steps: int = 100) -> Drawn | None:
    """Walk with the denoisers of the posteriors themselves, where they are known."""
    data: Any = task.problem.data
    if not hasattr(data, "posterior"):
        return None
    parts = []
    start = time.perf_counter()
    x = draw_prior(jax.random.key(SEED), SDE, (task.number, task.problem.matrix.shape[1]))
    for y in task.y:
        posterior = data.posterior(task.problem.matrix, y, task.problem.noise_std**2).data
        denoise = alike(posterior).denoiser(SDE)
        ts = grids.log_snr(SDE, steps)
        samples = sample(jax.random.key(SEED), SASolver(), denoise, SDE, ts, x)
        parts.append(np.asarray(samples.x, np.float64))
    return Drawn(x=np.stack(parts), nfe=int(samples.nfe), seconds=time.perf_counter() - start)


def _replaced(task: Task) -> Replacement:
    return Replacement(task.operator, Ancestral())


Method = Callable[[Task], Drawn | None]

METHODS: dict[str, Method] = {
    "exact": exactly,
    "TDS": by_particles(steps=200, particles=256, islands=16),
    "MMPS": mmps,
    "MMPS, 1 iteration": by_denoiser(MMPS, iterations=1),
    "JFPS": by_denoiser(JFPS),
    "PiGDM": by_denoiser(PiGDM),
    "TMPD": by_denoiser(TMPD),
    "DiffPIR": by_denoiser(DiffPIR),
    "DDNM": by_denoiser(DDNM),
    "DPS": by_sampler(lambda task: DPS(task.operator, 0.3)),
    "replacement": by_sampler(_replaced),
    "RePaint": by_sampler(lambda task: RePaint(_replaced(task), 3)),
    "DAPS": by_sampler(lambda task: DAPS(task.operator, task.std), steps=50),
    "split Gibbs": by_sampler(lambda task: SplitGibbs(task.operator, task.std), steps=50),
}
