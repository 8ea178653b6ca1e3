r"""Which sampler and grid to use for a given number of network evaluations, from measurements."""

from functools import partial
from typing import NamedTuple

import numpy as np

from sde_lib import SDE, in_float64

from . import grids
from .base import Sampler
from .deis import DEIS
from .dpm import DPMpp2MSDE, DPMpp3MSDE
from .unipc import UniPC

# Evaluations from which on a sampler is the better one, and the weight of `grids.centred`; at 0 it is `grids.log_snr`.
_DETERMINISTIC: tuple[tuple[int, Sampler, float], ...] = (
    (1, UniPC(p=2), 2.5),
    (10, UniPC(p=2), 1.6),
    (15, UniPC(p=3), 1.0),
    (20, DEIS(order=4), 0.0),
)
_STOCHASTIC: tuple[tuple[int, Sampler, float], ...] = (
    (1, DPMpp2MSDE(), 0.0),
    (14, DPMpp3MSDE(), 0.0),
)


class Recommendation(NamedTuple):
    """What to hand to `sample`."""

    sampler: Sampler
    ts: np.ndarray  # (steps + 1,)


def recommended(
    sde: SDE,
    nfe: int,
    stochastic: bool = False,
    *,
    end: float | None = None,
    denoise_last: bool = True,
) -> Recommendation:
    """Name a sampler and a grid for `nfe` network evaluations a sample, as `Samples.nfe` counts them.

    `UniPC(2)`, from 15 evaluations on `UniPC(3)`, on `grids.centred`; from 20 on `DEIS(4)` on `grids.log_snr`. Median error at the end
    of the probability flow of two Gaussian mixtures with exact scores, in 2 and 64 dimensions, beside the best of 23 settings of
    diffusers 0.42, k-diffusion and dpm-solver on the grids of their papers (`experiments.benchmarks.work_precision`):

    ====================  =======  =======  =======  =======  =======  =======  =======  =======
    evaluations           5        8        10       15       20       30       50       100
    ====================  =======  =======  =======  =======  =======  =======  =======  =======
    VP to t = 1e-3, d=2   2.0e-2   3.4e-3   2.3e-3   1.1e-3   2.7e-4   9.0e-5   1.1e-5   5.5e-7
    the best of theirs    2.2e-2   8.0e-3   3.4e-3   8.9e-4   5.2e-4   1.6e-4   3.8e-5   5.8e-6
    VP to t = 1e-3, d=64  9.5e-3   6.8e-3   3.8e-3   9.8e-4   6.6e-4   1.6e-4   1.9e-5   6.5e-7
    the best of theirs    2.4e-2   1.0e-2   4.2e-3   9.8e-4   7.1e-4   1.7e-4   5.2e-5   8.8e-6
    EDM to sigma 0, d=2   1.9e-2   4.3e-3   2.6e-3   1.4e-3   3.7e-4   1.4e-4   3.8e-5   8.0e-6
    the best of theirs    6.4e-2   3.2e-2   2.3e-2   9.0e-3   4.5e-3   1.3e-3   1.2e-4   2.6e-5
    EDM to sigma 0, d=64  1.7e-2   8.0e-3   3.6e-3   1.3e-3   7.1e-4   2.4e-4   6.7e-5   1.5e-5
    the best of theirs    6.2e-2   3.2e-2   1.7e-2   7.5e-3   2.8e-3   6.4e-4   1.1e-4   2.8e-5
    ====================  =======  =======  =======  =======  =======  =======  =======  =======

    The choice for 10 to 19 evaluations was made on five more mixtures as well (d = 2, 8, 32), where `DEIS(3)` on `grids.log_snr`, which is
    better on the first row at 15, is up to 2.2 times worse.

    Stochastic: `DPMpp2MSDE`, from 14 evaluations on `DPMpp3MSDE`, on `grids.log_snr`. Sliced Wasserstein distance of 50,000 samples to
    the mixture in the plane, mean and standard deviation over three seeds, beside the best of six samplers each of diffusers (VP) and
    k-diffusion (EDM) in the same run; two exact sets have 0.0047 +- 0.0008:

    ====================  ===============  ===============  ===============
    evaluations           20               50               100
    ====================  ===============  ===============  ===============
    VP to t = 1e-3        0.0061 +- .0001  0.0053 +- .0014  0.0051 +- .0012
    the best of theirs    0.0115 +- .0010  0.0052 +- .0024  0.0043 +- .0012
    EDM to sigma 0        0.0088 +- .0005  0.0055 +- .0010  0.0052 +- .0014
    the best of theirs    0.0149 +- .0003  0.0053 +- .0010  0.0055 +- .0009
    ====================  ===============  ===============  ===============

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
    _, sampler, weight = next(row for row in reversed(table) if nfe >= row[0])
    if end is None:
        end = max(float(sde.t_min), float(in_float64(sde.time, np.asarray(-2 * np.log(0.1 / nfe)))))
    grid = partial(grids.centred, weight=weight) if weight else grids.log_snr
    return Recommendation(sampler, grid(sde, steps, start=_start(sde), end=end))


def _start(sde: SDE) -> float:
    """Return 1, or the time of noise level 200 where the signal ends: a grid in log-SNR would lose its steps there.

    The prior is that of t = 1; a state of pure noise is as good a start at level 200. Where noise grows instead, as in VE, it is not.
    """
    if in_float64(sde.marginal, np.asarray(1.0))[0] > 1e-3:
        return 1.0
    return float(in_float64(sde.time, np.asarray(-2 * np.log(200.0))))
