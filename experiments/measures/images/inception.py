r"""The inception score: are images of clear classes, and of all of them?

With the probabilities p(y | x) of a classifier and their mean p(y) over the images of a part, it is
:math:`\exp \operatorname{mean}_x \mathrm{KL}(p(y | x) \,\|\, p(y))` (Salimans et al. 2016,
arXiv:1606.03498, section 4): from 1 to the number of classes, the larger the better. It never looks
at real images.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from ..calibration import finite_array


class InceptionScore(NamedTuple):
    """The mean score of several parts of the images."""

    value: float
    spread: float  # standard deviation of the scores of the parts: how papers report it
    splits: int  # number of parts


def inception_score(probabilities, splits: int = 10) -> InceptionScore:
    """Return the inception score of class probabilities (n, classes).

    The parts are drawn at random, the same ones at every call, so that it does no harm if the
    images lie in order of their classes, or show every class in turn. The score grows with the
    number of images in a part, n / `splits`: compare equal ones. The spread is that of one part,
    not the standard error of the mean.

    Raises:
        ValueError: the rows are no probabilities, or there are fewer than two images for each part.
    """
    probabilities = finite_array("class probabilities", probabilities, 2)
    sums = probabilities.sum(1)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise ValueError(
            "need probabilities, 0 or above and with the sum 1 in each row, got a smallest one of "
            f"{probabilities.min():.3g} and sums from {sums.min():.4g} to {sums.max():.4g}; take "
            "the softmax of logits"
        )
    if splits < 1 or len(probabilities) < 2 * splits:
        raise ValueError(
            f"need two or more images for each of {splits} parts, got {len(probabilities)}; lower "
            "splits"
        )
    probabilities = probabilities / sums[:, None]
    order = np.random.default_rng(0).permutation(len(probabilities))
    scores = [_score(probabilities[order[first::splits]]) for first in range(splits)]
    return InceptionScore(value=float(np.mean(scores)), spread=float(np.std(scores)), splits=splits)


def _score(probabilities: np.ndarray) -> float:
    """Return the score of one part."""
    divergences = rel_entr(probabilities, probabilities.mean(0)).sum(1)
    return float(np.exp(divergences.mean()))
