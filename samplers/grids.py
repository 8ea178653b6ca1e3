r"""Time grids: n + 1 decreasing float64 times from `start` to `end`, for n steps.

Where sampling ends is the grid's business: the papers stop at 1e-3 for VP and sub-VP and at 1e-5 for VE, then denoise once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sde_lib import SDE, in_float64


def _fractions(n: int, start: float, end: float) -> np.ndarray:
    if n < 1 or not 0 <= end < start <= 1:
        raise ValueError(
            f"need at least one step and 0 <= end < start <= 1, got n = {n}, start = {start}, end = {end}"
        )
    return np.linspace(0.0, 1.0, n + 1)


def _pinned(ts: np.ndarray, start: float, end: float) -> np.ndarray:
    """Free the ends of rounding errors."""
    ts[0], ts[-1] = start, end
    return ts


def uniform(sde: SDE, n: int, start: float = 1.0, end: float = 1e-3) -> np.ndarray:
    """Return equally spaced times."""
    del sde
    return _pinned(start + _fractions(n, start, end) * (end - start), start, end)


def quadratic(sde: SDE, n: int, start: float = 1.0, end: float = 1e-3) -> np.ndarray:
    """Return times whose square roots are equally spaced (arXiv:2010.02502, appendix D.2)."""
    del sde
    return _pinned(
        (start**0.5 + _fractions(n, start, end) * (end**0.5 - start**0.5)) ** 2, start, end
    )


def log_snr(sde: SDE, n: int, start: float = 1.0, end: float = 1e-3) -> np.ndarray:
    """Return times equally spaced in the log-SNR (Lu et al. 2022, arXiv:2206.00927)."""
    return _times(sde, n, start, end, jnp.log, jnp.exp)


def karras(sde: SDE, n: int, start: float = 1.0, end: float = 1e-3, rho: float = 7.0) -> np.ndarray:
    """Return times at which (sigma / alpha)^(1/rho) is equally spaced (Karras et al. 2022, arXiv:2206.00364, eq. 5)."""
    return _times(sde, n, start, end, lambda r: r ** (1 / rho), lambda y: y**rho)


def centred(
    sde: SDE,
    n: int,
    start: float = 1.0,
    end: float = 1e-3,
    weight: float = 2.5,
    centre: float = 2.3,
    width: float = 1.4,
) -> np.ndarray:
    r"""Return times as dense in the half log-SNR :math:`\lambda` as

    :math:`1 + \text{weight}\,e^{-(\lambda - \text{centre})^2 / 2 \text{width}^2}`: more steps where data of about unit size take shape.
    The defaults were fitted to few steps of `UniPC`, see `recommended`.
    """

    def bump(lam):
        return (lam - centre) / width

    def warp(level):
        lam = -jnp.log(level)
        return lam + weight * width * np.sqrt(np.pi / 2) * jax.scipy.special.erf(
            bump(lam) / np.sqrt(2)
        )

    def unwarp(value):
        lam = value
        for i in range(
            30
        ):  # a contraction, as the slope of the warp lies between 1 and 1 + weight, then Newton's method
            slope = 1 + weight * (jnp.exp(-0.5 * bump(lam) ** 2) if i >= 24 else 1.0)
            lam = lam - (warp(jnp.exp(-lam)) - value) / slope
        return jnp.exp(-lam)

    return _times(sde, n, start, end, warp, unwarp)


def _times(sde, n, start, end, warp, unwarp) -> np.ndarray:
    """Space sigma / alpha equally under `warp` and find the times, in float64; the ends are exact."""
    fractions = _fractions(n, start, end)
    ratios = in_float64(lambda sde, ends: sde.log_snr(ends), sde, np.array([start, end]))
    if not isinstance(ratios, Tracer) and not np.all(np.isfinite(ratios)):
        raise ValueError(
            f"the log-SNR of {type(sde).__name__} is {ratios[0]:g} at start = {start} and {ratios[1]:g} at end = {end}; this grid needs it "
            "finite: start below 1 or end above 0, or take the uniform or quadratic grid"
        )

    def times(sde, ends):
        first, last = warp(jnp.exp(-0.5 * sde.log_snr(ends)))
        return sde.time(-2 * jnp.log(unwarp(first + fractions * (last - first))))

    return _pinned(np.array(in_float64(times, sde, np.array([start, end]))), start, end)
