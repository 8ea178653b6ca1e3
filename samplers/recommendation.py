r"""Which sampler and grid to use for a given number of network evaluations, from measurements."""

from typing import Any, NamedTuple

import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from sde_lib import SDE, in_float64

from . import grids
from .base import Sampler
from .data_size import data_sd, time_of_level
from .deis import DEIS
from .dpm import DPMpp2MSDE, DPMpp3MSDE
from .sa import SASolver
from .unipc import UniPC


class Choice(NamedTuple):
    """A deterministic sampler, and the settings of `grids.centred` that it is at its best with."""

    evaluations: int  # from which on it is the better one
    sampler: Sampler
    weight: float
    centre: float
    reach: float
    warm_up: float


DETERMINISTIC = (
    Choice(1, UniPC(predictor_order=2), weight=1.0, centre=1.0, reach=8.0, warm_up=0.0),
    Choice(7, UniPC(predictor_order=2), weight=1.2, centre=1.2, reach=30.0, warm_up=0.0),
    Choice(10, DEIS(order=3), weight=1.0, centre=-0.5, reach=30.0, warm_up=1.5),
    Choice(
        15,
        SASolver(predictor_steps=3, corrector_steps=3, tau=0.0),
        weight=0.5,
        centre=0.6,
        reach=15.0,
        warm_up=0.5,
    ),
    Choice(
        20,
        SASolver(predictor_steps=4, corrector_steps=4, tau=0.0),
        weight=0.5,
        centre=0.5,
        reach=15.0,
        warm_up=0.5,
    ),
    Choice(
        25,
        SASolver(predictor_steps=4, corrector_steps=4, tau=0.0),
        weight=1.0,
        centre=0.5,
        reach=30.0,
        warm_up=1.5,
    ),
    Choice(
        70,
        SASolver(predictor_steps=4, corrector_steps=4, tau=0.0),
        weight=1.5,
        centre=0.2,
        reach=30.0,
        warm_up=2.0,
    ),
)
STOCHASTIC: tuple[tuple[int, Sampler], ...] = ((1, DPMpp2MSDE()), (14, DPMpp3MSDE()))


class Recommendation(NamedTuple):
    """What to hand to `sample`."""

    sampler: Sampler
    ts: np.ndarray  # (steps + 1,)


def recommended(
    sde: SDE,
    nfe: grids.Count,
    stochastic: bool = False,
    *,
    denoise: Any = None,
    sd: ArrayLike | None = None,
    end: float | None = None,
    denoise_last: bool = True,
) -> Recommendation:
    """Return a sampler and a grid for a number of network evaluations.

    They are `UniPC(2)`, from 10 evaluations on `DEIS(3)`, from 15 on `SASolver(3, 3)` and from 20
    on `SASolver(4, 4)` without noise, all on `grids.centred`. Sizes are counted in standard
    deviations of the data, so that data of any size are walked as those of size 1 are, and a
    process that leaves no signal is started at pure noise. The choice was made on random mixtures
    of 2 to 64 dimensions and on those below.

    Median error at the end of the probability flow of two Gaussian mixtures with exact scores, in 2
    and 64 dimensions, beside the best of 23 settings of diffusers 0.42, k-diffusion and dpm-solver
    on the grids of their papers, by
    ``python -m experiments.benchmarks.recommendation --published``; without that flag it measures
    on mixtures that the choice was not made on:

    ====================  =======  =======  =======  =======  =======  =======  =======
    evaluations           5        10       15       20       30       50       100
    ====================  =======  =======  =======  =======  =======  =======  =======
    VP to t = 1e-3, d=2   2.1e-2   2.2e-3   7.3e-4   3.6e-4   4.1e-5   2.7e-6   9.8e-8
    the best of theirs    2.2e-2   3.4e-3   8.9e-4   5.2e-4   1.6e-4   3.8e-5   5.8e-6
    VP to t = 1e-3, d=64  7.9e-3   2.9e-3   8.5e-4   1.7e-4   2.5e-5   4.9e-6   3.2e-7
    the best of theirs    2.4e-2   4.2e-3   9.8e-4   7.1e-4   1.7e-4   5.2e-5   8.8e-6
    EDM to sigma 0, d=2   1.5e-2   4.8e-3   1.2e-3   9.5e-4   1.1e-4   8.9e-6   4.0e-7
    the best of theirs    6.4e-2   2.3e-2   9.0e-3   4.5e-3   1.3e-3   1.2e-4   2.6e-5
    EDM to sigma 0, d=64  1.5e-2   3.9e-3   1.1e-3   4.4e-4   8.3e-5   9.1e-6   1.2e-6
    the best of theirs    6.2e-2   1.7e-2   7.5e-3   2.8e-3   6.4e-4   1.1e-4   2.8e-5
    ====================  =======  =======  =======  =======  =======  =======  =======

    Stochastic: `DPMpp2MSDE`, from 14 evaluations on `DPMpp3MSDE`, on `grids.log_snr`. Sliced
    Wasserstein distance of 50,000 samples to the mixture in the plane, mean and standard deviation
    over three seeds, beside the best of six samplers each of diffusers (VP) and k-diffusion (EDM)
    in the same run of `experiments.benchmarks.work_precision`; two exact sets have 0.0047 +-
    0.0008:

    ====================  ===============  ===============  ===============
    evaluations           20               50               100
    ====================  ===============  ===============  ===============
    VP to t = 1e-3        0.0061 +- .0001  0.0053 +- .0014  0.0051 +- .0012
    the best of theirs    0.0115 +- .0010  0.0052 +- .0024  0.0043 +- .0012
    EDM to sigma 0        0.0088 +- .0005  0.0055 +- .0010  0.0052 +- .0014
    the best of theirs    0.0149 +- .0003  0.0053 +- .0010  0.0055 +- .0009
    ====================  ===============  ===============  ===============

    Args:
        sde: the process.
        nfe: network evaluations a sample, as `Samples.nfe` counts them.
        stochastic: draw from the reverse SDE instead of following the probability flow.
        denoise: the denoiser that will be sampled, whose `sigma_data` is the size of the data where
            `sd` is not given.
        sd: standard deviation of the data over all coordinates; by default the denoiser's
            `sigma_data`, else 1.
        end: the last time of the grid. The default has the noise level of 3 `sd` / nfe^2, or that
            of t_min if this is higher: what the last denoising misses falls with the square of the
            level, so with the fourth power of the evaluations, as what the walk misses does. For a
            stochastic sampler it is 0.25 `sd` / nfe.
        denoise_last: whether `sample` spends the last evaluation on denoising, as it does by
            default.

    Raises:
        ValueError: not a single step is left, or the size of the data is not one positive number.
    """
    nfe = grids.whole_number("nfe", nfe, 1 + bool(denoise_last))
    sd = _concrete_sd(denoise, sd)
    if stochastic:
        _, sampler = next(row for row in reversed(STOCHASTIC) if nfe >= row[0])
        end = _end(sde, 0.25 * sd / nfe) if end is None else end
        return Recommendation(sampler, grids.log_snr(sde, nfe - bool(denoise_last), end=end, sd=sd))
    choice = next(row for row in reversed(DETERMINISTIC) if nfe >= row.evaluations)
    ts = grids.centred(
        sde,
        nfe - bool(denoise_last),
        end=_end(sde, 3 * sd / nfe**2) if end is None else end,
        weight=choice.weight,
        centre=choice.centre,
        reach=choice.reach,
        warm_up=choice.warm_up,
        sd=sd,
    )
    return Recommendation(choice.sampler, ts)


def _concrete_sd(denoise: Any, sd: ArrayLike | None) -> float:
    """Return the size of the data as a number, also inside of `jax.jit`."""
    if sd is None and denoise is not None:
        sd = in_float64(data_sd, denoise)
    concrete = data_sd(None, sd)
    if isinstance(concrete, Tracer):
        raise ValueError(
            "the size of the data decides which grid is recommended, so it cannot be traced; "
            "pass sd as a number, or ask for the recommendation outside of jax.jit"
        )
    return float(np.asarray(concrete))


def _end(sde: SDE, level: float) -> float:
    """Return the time of a noise level sigma / alpha, at most 0.5.

    It is t_min where the process does not get there.
    """
    time = float(in_float64(time_of_level, sde, level))
    return min(max(float(sde.t_min), time), 0.5)
