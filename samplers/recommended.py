r"""Which sampler and grid to use for a given number of network evaluations, from measurements."""

from typing import NamedTuple

import numpy as np

from sde_lib import SDE, in_float64

from . import grids
from .base import Sampler
from .deis import DEIS
from .dpm import DPMpp2MSDE

# Evaluations from which on a sampler is the better one.
_DETERMINISTIC: tuple[tuple[int, Sampler], ...] = ((1, DEIS(order=2)), (8, DEIS(order=3)), (20, DEIS(order=4)))
_STOCHASTIC: tuple[tuple[int, Sampler], ...] = ((1, DPMpp2MSDE()),)


class Recommendation(NamedTuple):
    """What to hand to `sample`."""

    sampler: Sampler
    ts: np.ndarray  # (steps + 1,)


def recommended(sde: SDE, nfe: int, stochastic: bool = False, *, end: float | None = None, denoise_last: bool = True) -> Recommendation:
    """Name a sampler and a grid for `nfe` network evaluations a sample, as `Samples.nfe` counts them.

    TABLE

    Args:
        stochastic: draw from the reverse SDE instead of following the probability flow.
        end: the last time of the grid; by default where the noise level sigma / alpha is 0.1 / nfe, or at t_min: the last
            denoising, of first order, then misses no more than the walk before it.
        denoise_last: whether `sample` spends the last evaluation on denoising, as it does unless told otherwise.

    Raises:
        ValueError: not a single step is left.
    """
    steps = nfe - denoise_last
    if steps < 1:
        raise ValueError(f"need at least {1 + denoise_last} evaluations, got {nfe}")
    table = _STOCHASTIC if stochastic else _DETERMINISTIC
    sampler = next(choice for least, choice in reversed(table) if nfe >= least)
    if end is None:
        end = max(float(sde.t_min), float(in_float64(sde.time, np.asarray(-2 * np.log(0.1 / nfe)))))
    grid = grids.centred if nfe < 8 else grids.log_snr
    return Recommendation(sampler, grid(sde, steps, start=_start(sde), end=end))


def _start(sde: SDE) -> float:
    """Return 1, or the time of noise level 200 if no signal is left at t = 1, where a grid in log-SNR cannot begin."""
    if np.isfinite(in_float64(sde.log_snr, np.asarray(1.0))):
        return 1.0
    return float(in_float64(sde.time, np.asarray(-2 * np.log(200.0))))
