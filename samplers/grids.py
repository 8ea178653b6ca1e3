r"""Time grids: n + 1 decreasing float64 times from `start` to `end`, for n steps.

Every grid takes the process, the number n of steps, the first and the last time, and `sd`, the
standard deviation of the data. It raises a ValueError for less than one step and for times that do
not fall from at most 1 to at least 0. The grid decides where sampling ends: the papers stop at 1e-3
for VP and sub-VP and at 1e-5 for VE, then denoise once.

Three grids space the noise level :math:`s = \sigma / \alpha` and not the time. They are the same
for every process, but for its ends. A process that leaves less than a thousandth of the signal at
t = 1, such as `Rectified` and `Cosine`, has no finite level there, or one that would cost `log_snr`
and `karras` most of their steps. By default these two start it where `data_size.start_time` says,
at a noise level of 200, from which a state of pure noise is as good a start. `centred` takes any
start.

Grids come as float64 NumPy arrays, also inside `jax.jit` and `jax.vmap`. Where the process, `sd` or
an end is traced, as when a schedule is learned, so is the grid, and gradients pass.
"""

import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from sde_lib import SDE, in_float64

from .data_size import data_sd, start_time
from .signal import signal_and_noise

Count = Any  # a whole number, which `whole_number` checks
Times = Any  # (n + 1,), a NumPy array in float64 unless something is traced

MOST = 1_000_000
_WIDEST = 50.0  # half log-SNR, beyond every one that float32 can hold


def uniform(
    sde: SDE, n: Count, start: float = 1.0, end: float = 1e-3, sd: ArrayLike = 1.0
) -> Times:
    """Return equally spaced times."""
    del sde, sd
    fractions = _fractions(n, start, end)
    return _pinned(start + fractions * (end - start), start, end)


def quadratic(
    sde: SDE, n: Count, start: float = 1.0, end: float = 1e-3, sd: ArrayLike = 1.0
) -> Times:
    """Return times whose square roots are equally spaced (arXiv:2010.02502, appendix D.2)."""
    del sde, sd
    fractions = _fractions(n, start, end)
    roots = start**0.5 + fractions * (end**0.5 - start**0.5)
    return _pinned(roots**2, start, end)


def log_snr(
    sde: SDE, n: Count, start: float | None = None, end: float = 1e-3, sd: ArrayLike = 1.0
) -> Times:
    """Return times equally spaced in the log-SNR (Lu et al. 2022, arXiv:2206.00927)."""
    start = start_time(sde, data_sd(None, sd)) if start is None else start
    return _times(sde, _fractions(n, start, end), start, end, _same, _same)


def karras(
    sde: SDE,
    n: Count,
    start: float | None = None,
    end: float = 1e-3,
    rho: float = 7.0,
    sd: ArrayLike = 1.0,
) -> Times:
    """Return times at which (sigma / alpha)^(1 / rho) is equally spaced.

    This is eq. 5 of Karras et al. 2022, arXiv:2206.00364.
    """
    _check_positive(rho=rho)
    start = start_time(sde, data_sd(None, sd)) if start is None else start

    def warp(lam, xp):
        return xp.exp(-lam / rho)

    def unwarp(value, xp):
        return -rho * xp.log(value)

    return _times(sde, _fractions(n, start, end), start, end, warp, unwarp)


def centred(
    sde: SDE,
    n: Count,
    start: float = 1.0,
    end: float = 1e-3,
    weight: float = 1.0,
    centre: float = 0.5,
    width: float = 2.5,
    reach: float = 30.0,
    warm_up: float = 1.5,
    sd: ArrayLike = 1.0,
) -> Times:
    r"""Return times that are dense where data take shape.

    They are sparse where there is hardly any signal. In the half log-SNR of data of standard
    deviation `sd`, :math:`\lambda = \log(\text{sd}\,\alpha / \sigma)`, their density is

    .. math:: \frac{1}{1 + e^{-\lambda} / \text{reach}}
        + \frac{\text{weight}}{\cosh^2((\lambda - \text{centre}) / \text{width})} .

    The first term falls off beyond a noise level of `reach` standard deviations, so that a grid may
    start anywhere above it, even at pure noise. The first steps, for which a multistep sampler has
    no past predictions, are shorter: step i = 0, 1 ... by the factor
    :math:`1 + \text{warm\_up}\,e^{-i}`. The defaults are the choice of `recommended` for 25 to 69
    evaluations.
    """
    _check_positive(width=width, reach=reach)
    _check_positive(or_zero=True, weight=weight, warm_up=warm_up)

    def warp(lam, xp):
        bump = weight * width * xp.tanh((lam - centre) / width)
        return xp.logaddexp(lam, -xp.log(reach)) + bump

    lengths = 1 / (1 + warm_up * np.exp(-np.arange(len(_fractions(n, start, end)) - 1)))
    fractions = np.append(0.0, np.cumsum(lengths)) / np.sum(lengths)
    return _times(sde, fractions, start, end, warp, _inverse(warp), data_sd(None, sd))


def whole_number(name: str, value: Any, least: int, most: int = MOST) -> int:
    """Return `value` as an int.

    Raises:
        ValueError: it is not a whole number from `least` to `most`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool | np.bool_) or not least <= number <= most:
        raise ValueError(
            f"need {name} as a whole number from {least} to {most:,}, such as int({name}), "
            f"got {value!r}"
        ) from None
    return number


def _check_positive(or_zero: bool = False, **values: Any) -> None:
    """Raise a ValueError unless the named values are one number above 0; infinity passes."""
    for name, value in values.items():
        if isinstance(value, Tracer):
            continue
        if np.ndim(value) or not _is_real(value) or not (value >= 0 if or_zero else value > 0):
            raise ValueError(f"need one number {name} {'>=' if or_zero else '>'} 0, got {value!r}")


def _is_real(value: Any) -> bool:
    """Tell whether something is a real number, or an array of them."""
    return np.issubdtype(np.asarray(value).dtype, np.number) and not np.iscomplexobj(value)


def _fractions(n: Count, start: Any, end: Any) -> np.ndarray:
    """Return the equal fractions (n + 1,) of n steps.

    Raises:
        ValueError: no step, or times that do not fall from at most 1 to at least 0.
    """
    concrete = not isinstance(start, Tracer) and not isinstance(end, Tracer)
    for name, value in {"start": start, "end": end}.items():
        if not isinstance(value, Tracer) and (np.ndim(value) or not _is_real(value)):
            raise ValueError(f"need a number {name} between 0 and 1, got {value!r}")
    if isinstance(n, int | np.integer) and n < 1 or concrete and not 0 <= end < start <= 1:
        raise ValueError(
            "need at least one step and 0 <= end < start <= 1, "
            f"got n = {n}, start = {start}, end = {end}"
        )
    return np.linspace(0.0, 1.0, whole_number("n", n, 1) + 1)


def _pinned(ts: Any, start: Any, end: Any) -> Any:
    """Free the ends of rounding errors."""
    if any(isinstance(value, Tracer) for value in (ts, start, end)):
        return jnp.asarray(ts).at[0].set(start).at[-1].set(end)
    ts = np.array(ts)
    ts[0], ts[-1] = start, end
    return ts


def _times(
    sde: SDE,
    fractions: np.ndarray,
    start: Any,
    end: Any,
    warp: Callable,
    unwarp: Callable,
    sd: ArrayLike = 1.0,
) -> Any:
    """Space the half log-SNR of the data as `fractions` under `warp` and return the times.

    They are found in float64, and the ends are exact.

    Args:
        sde: the process.
        fractions: (n + 1,) from 0 to 1.
        start: the first time.
        end: the last time.
        warp: (half log-SNR, numpy or jax.numpy) -> the quantity in which the fractions count.
        unwarp: its inverse.
        sd: standard deviation of the data.
    """
    ends = in_float64(_half_log_snr, sde, start, end, sd)
    xp = jnp if isinstance(ends, Tracer) else np
    with np.errstate(all="ignore"):
        first, last = warp(ends, xp)
    if xp is np and not (np.isfinite(first) and np.isfinite(last)):
        ratios = 2 * (ends - np.log(sd))
        raise ValueError(
            f"the log-SNR of {type(sde).__name__} is {ratios[0]:g} at start = {start} and "
            f"{ratios[1]:g} at end = {end}; this grid needs it "
            "finite: start below 1 or end above 0, or take the uniform or quadratic grid"
        )
    with np.errstate(all="ignore"):
        lam = unwarp(first + fractions * (last - first), xp)
    ts = in_float64(_times_of, sde, lam, sd)
    return _pinned(ts, start, end)


def _half_log_snr(sde: SDE, start: Any, end: Any, sd: ArrayLike) -> Any:
    """Return the half log-SNR (2,) of the data at both ends."""
    ts = jnp.stack([jnp.asarray(start), jnp.asarray(end)])
    signal = signal_and_noise(sde, ts)[0] > 0  # not where it is rounding alone
    return jnp.where(signal, 0.5 * sde.log_snr(ts), -jnp.inf) + jnp.log(sd)


def _times_of(sde: SDE, lam: Any, sd: ArrayLike) -> Any:
    """Return the times of values of the half log-SNR of the data."""
    return sde.time(2 * (lam - jnp.log(sd)))


def _same(value: Any, xp: ModuleType) -> Any:
    """Return what is given: the warp of a grid that is equally spaced in the log-SNR itself."""
    del xp
    return value


def _inverse(warp: Callable) -> Callable:
    """Return the inverse of a growing function of the half log-SNR.

    It is found by bisection, then a step of Newton's method, through which gradients pass.
    """

    def unwarp(values, xp):
        low, high = xp.full_like(values, -_WIDEST), xp.full_like(values, _WIDEST)
        for _ in range(50):
            middle = (low + high) / 2
            below = warp(middle, xp) < values
            low, high = xp.where(below, middle, low), xp.where(below, high, middle)
        lam = (low + high) / 2
        if xp is np:
            return lam
        lam = jax.lax.stop_gradient(lam)
        value, slope = jax.jvp(lambda lam: warp(lam, jnp), (lam,), (jnp.ones_like(lam),))
        return lam - (value - values) / slope

    return unwarp
