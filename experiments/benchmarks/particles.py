r"""`python -m experiments.benchmarks.particles`: what guidance samples, plain and corrected.

The law is :math:`q_u^{1-b} q_c^b` for a class c of a labelled mixture, whose conditional and
unconditional denoisers are exact, on the line and in the plane. Plain guidance at scale b is
measured beside `guided_particles`, at the same number of evaluations. Exact draws come from the
density on a fine grid. The Wasserstein distance (1-D, or the mean over 32 directions) of 4000
samples to 4000 of them is divided by that of two such sets, which is the floor, so that 1 is exact.
The corrected samples are drawn from 64,000 weighted particles: their common ancestors make the
shares of distant modes vary as if there were far fewer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import wasserstein_distance

from samplers import DPMpp2M, draw_prior, grids, sample
from samplers.particles import effective_sample_size, guided_particles
from sde_lib import VP, ClassifierFree, GaussianMixture, LabelledMixture

SAMPLES = 4000
PARTICLES = 64_000
REPETITIONS = 4
STEPS = {1.0: 100, 2.0: 100, 4.0: 200, 8.0: 400}  # by the power
ETA = 3.0
LABEL = 0
SDE = VP()


class Law(NamedTuple):
    """The density of a power on a grid."""

    points: np.ndarray  # (cells, d)
    width: float  # of a cell
    shares: np.ndarray  # (cells,) that add up to 1
    log_normaliser: float

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw `n` points (n, d), uniform within their cells."""
        points = self.points[rng.choice(len(self.points), n, p=self.shares)]
        return points + self.width * (rng.random(points.shape) - 0.5)


def problems() -> dict[str, LabelledMixture]:
    """Return labelled mixtures on the line and in the plane, whose classes overlap."""
    line = GaussianMixture(
        [0.3, 0.2, 0.3, 0.2],
        [[-1.0], [0.7], [0.0], [1.5]],
        [[[0.3**2]], [[0.25**2]], [[0.4**2]], [[0.3**2]]],
    )
    tilted = np.array([[0.2, 0.12], [0.12, 0.15]])
    plane = GaussianMixture(
        [0.25, 0.15, 0.1, 0.3, 0.2],
        [[-1.0, -0.6], [0.9, 0.9], [1.2, -1.0], [0.0, 0.3], [-1.0, 1.0]],
        [tilted, 0.1 * np.eye(2), 0.05 * np.eye(2), 0.2 * np.eye(2), tilted[::-1, ::-1]],
    )
    return {
        "line": LabelledMixture(line, [0, 0, 1, 1]),
        "plane": LabelledMixture(plane, [0, 0, 0, 1, 1]),
    }


def law_of(labelled: LabelledMixture, power: float) -> Law:
    """Return q_u^(1 - power) q_c^power on a grid of cells."""
    d = labelled.mixture.means.shape[1]
    side = np.linspace(-4.0, 4.0, 20_001 if d == 1 else 801)
    width = side[1] - side[0]
    points = np.stack(np.meshgrid(*[side] * d, indexing="ij"), -1).reshape(-1, d)
    log_density = (1 - power) * _log_prob(labelled.mixture, points)
    log_density += power * _log_prob(labelled.given(LABEL), points)
    peak = log_density.max()
    density = np.exp(log_density - peak)
    return Law(
        points=points,
        width=width,
        shares=density / density.sum(),
        log_normaliser=float(np.log(density.sum() * width**d) + peak),
    )


def _log_prob(mixture: GaussianMixture, points: np.ndarray) -> np.ndarray:
    """Return the log-density of clean data in float64."""
    parts = []
    for weight, mean, basis, variances in zip(
        mixture.weights, mixture.means, mixture.bases, mixture.variances, strict=True
    ):
        z = (points - mean) @ basis / np.sqrt(variances)
        log_scale = 0.5 * np.sum(np.log(2 * np.pi * variances))
        parts.append(np.log(weight) - 0.5 * np.sum(z**2, 1) - log_scale)
    return np.logaddexp.reduce(parts, axis=0)


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of `x` (n, d) to `y`, a mean over directions."""
    angles = np.pi * (np.arange(32) + 0.5) / 32
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    if x.shape[1] == 1:
        directions = np.ones((1, 1))
    return float(np.mean([wasserstein_distance(x @ v, y @ v) for v in directions]))


class Outcome(NamedTuple):
    """What one run is worth."""

    plain: float  # distance of plain guidance
    corrected: float  # distance of samples of the weighted particles
    log_normaliser: float
    ess: float  # at the end
    nfe: int


def run(labelled: LabelledMixture, law: Law, power: float, seed: int) -> Outcome:
    """Sample by both methods, and measure them against fresh exact draws."""
    denoise = labelled.denoiser(SDE)
    key = jax.random.key(seed)
    rng = np.random.default_rng(seed)
    ts = grids.log_snr(SDE, STEPS[power])
    x = draw_prior(key, SDE, (PARTICLES, law.points.shape[1]))
    cond = jnp.full(PARTICLES, LABEL)
    plain = sample(
        key,
        DPMpp2M(),
        ClassifierFree(denoise, power),
        SDE,
        ts,
        x[:SAMPLES],
        cond=cond[:SAMPLES],
    )
    particles = guided_particles(key, denoise, SDE, ts, x, cond=cond, power=power, eta=ETA)
    weights = np.asarray(jax.nn.softmax(particles.log_weights), np.float64)
    chosen = rng.choice(PARTICLES, SAMPLES, p=weights / weights.sum())
    return Outcome(
        plain=distance(np.asarray(plain.x), law.sample(rng, SAMPLES)),
        corrected=distance(np.asarray(particles.x)[chosen], law.sample(rng, SAMPLES)),
        log_normaliser=float(particles.log_normaliser),
        ess=float(effective_sample_size(particles.log_weights)),
        nfe=int(particles.nfe),
    )


def main() -> None:
    """Print the table."""
    print(
        f"{SAMPLES} samples of {PARTICLES} particles, distances over the floor, "
        f"{REPETITIONS} runs: mean +- error"
    )
    print("law    b  plain  corrected      ESS   NFE  log-normaliser     exact")
    for name, labelled in problems().items():
        for power in STEPS:
            law = law_of(labelled, power)
            rng = np.random.default_rng(1)
            pairs = [[law.sample(rng, SAMPLES) for _ in range(2)] for _ in range(16)]
            floor = np.mean([distance(*pair) for pair in pairs])
            outcomes = [run(labelled, law, power, seed) for seed in range(REPETITIONS)]
            plain, corrected, normaliser, ess, nfe = np.array(outcomes).T
            error = np.std(corrected / floor, ddof=1) / np.sqrt(REPETITIONS)
            spread = np.std(normaliser, ddof=1) / np.sqrt(REPETITIONS)
            print(
                f"{name:5} {power:2g} {np.mean(plain) / floor:6.2f}"
                f"  {np.mean(corrected) / floor:4.2f} +- {error:4.2f} {np.mean(ess):7.0f}"
                f" {nfe[0]:5.0f} {np.mean(normaliser):7.3f} +- {spread:5.3f} {law.log_normaliser:9.3f}"
            )


if __name__ == "__main__":
    main()
