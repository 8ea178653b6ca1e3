"""What a measure says of real images against real images, at the numbers that it is taken at.

No measure here is 0, or 1, for finite samples of the right law; what a perfect model would score
has to stand beside what a model scores.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray], float]


class RealFloor(NamedTuple):
    """What a measure says of disjoint sets of real images."""

    value: float  # mean over the repeats
    spread: float  # standard deviation over the repeats, which share images: a lower bound
    number: int  # images in the place of samples
    against: int  # images in the place of data
    repeats: int


def real_against_real(
    measure: Measure,
    real: np.ndarray,
    number: int,
    against: int | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> RealFloor:
    """Return what a measure says of `number` real images against `against` other ones.

    Each repeat draws both anew, without an image in common::

        floor = real_against_real(
            lambda a, b: frechet_distance(measure_moments(a), measure_moments(b)),
            features,
            number=5000,
        )

    Args:
        measure: a function (samples, data) -> number of two sets of images or features.
        real: images or features (n, ...).
        number: how many stand for samples; take as many as there are samples.
        against: how many stand for data; by default as many as `number`.
        repeats: draws, 2 or more.
        seed: of the draws.

    Raises:
        ValueError: there are too few real images.
    """
    against = number if against is None else against
    if number < 1 or against < 1 or number + against > len(real):
        raise ValueError(
            f"need {number} + {against} different real images, got {len(real)}; compare fewer "
            "samples, or give more real images"
        )
    if repeats < 2:
        raise ValueError(f"need 2 or more repeats for a spread, got {repeats}")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(repeats):
        order = rng.permutation(len(real))
        samples = real[order[:number]]
        data = real[order[number : number + against]]
        values.append(float(measure(samples, data)))
    return RealFloor(
        value=float(np.mean(values)),
        spread=float(np.std(values, ddof=1)),
        number=number,
        against=against,
        repeats=repeats,
    )
