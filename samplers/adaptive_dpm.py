r"""DPM-Solver-12 and -23: adaptive steps along the probability flow.

The scheme is that of Lu et al. 2022, arXiv:2206.00927, appendix C. A step of length h in half
log-SNR takes the solution of order k - 1 from the network calls that the one of order k makes
anyway. Their difference is measured relative to a tolerance in the normalised state
:math:`u = x / \sqrt{s^2 \alpha^2 + \sigma^2}` for data of standard deviation s. The step is
accepted if its root mean square E is at most 1, and E sets the next length,

.. math::
    \delta &= \max(\text{atol}, \text{rtol} \max(|u_{k-1}|, |u_{k-1}^\text{before}|)), \\
    h &\leftarrow h \min(\text{growth}, \theta\,E^{-1/k}) .

The paper differs in three ways. It measures x itself, which is the same for VP and s = 1; where
noise is larger than the data, as in VE and EDM, that tolerates any error that the state before
would hide. It lets h grow without bound: while the state is noise E is almost 0, and the step after
it jumps over the data. It takes the worst E of a batch; here each sample has steps of its own and
does not depend on its batch, which is evaluated until its slowest member is done. `nfe` counts
these evaluations, rejected steps included.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array

from sde_lib import SDE, Denoise, in_float64, init_memory, recall

from .checks import check_batch, check_number, check_problem, check_span, check_tolerance
from .counted import Counted, evaluations
from .data_size import data_sd, end_time, start_time
from .exponential import half_log_snr, moments
from .recalling import Recalling
from .walk import Samples


def dpm_adaptive(
    denoise: Denoise,
    sde: SDE,
    x: Array,
    *,
    order: int = 3,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    sd: ArrayLike | None = None,
    cond: Any = None,
    rtol: ArrayLike = 0.05,
    atol: ArrayLike = 0.0078,
    first: ArrayLike = 0.05,
    safety: ArrayLike = 0.9,
    growth: ArrayLike = 2.0,
    longest: ArrayLike = 1.0,
    max_steps: int = 1000,
    denoise_last: bool = True,
) -> Samples:
    """Carry `x` (batch, ...) along the probability flow from time `start` down to `end`.

    Signal and noise are both left at the two times.

    Args:
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: the state at `start` (batch, ...).
        order: 2 or 3, of the better of the two solutions, and as many network calls a step. The
            other defaults are the paper's.
        start: by default 1, or earlier where no signal is left at 1.
        end: by default near data, at 1e-3 or earlier where noise is above a hundredth of the data.
        sd: standard deviation of the data; by default the denoiser's `sigma_data`, else 1.
        cond: a pytree of conditions with leading axis `batch`.
        rtol: relative tolerance.
        atol: absolute tolerance, in the normalised state.
        first: length of the first step in half log-SNR.
        safety: theta.
        growth: largest factor from one step to the next; infinite in the paper.
        longest: greatest length of a step in half log-SNR; infinite in the paper. Where the flow is
            nearly linear the two solutions agree over longer ones without being right.
        max_steps: after so many steps a sample is given up.
        denoise_last: return the expected clean data at `end`, with one more evaluation.

    Returns:
        Samples in the floating type of `x`; a sample that did not arrive within `max_steps` steps
        is NaN.

    Raises:
        ValueError: another order, times that do not fall, no signal or no noise at one of them,
            impossible settings or state.
    """
    check_problem(denoise, sde)
    if order not in (2, 3):
        raise ValueError(f"DPM-Solver-12 has order 2, DPM-Solver-23 order 3, got order {order}")
    sd = data_sd(denoise, sd)
    start = start_time(sde, sd) if start is None else start
    end = end_time(sde, sd) if end is None else end
    check_span(sde, start, end)
    check_tolerance(rtol, atol, max_steps)
    check_number("need first > 0", lambda v: v > 0, first=first)
    check_number("need 0 < safety <= 1", lambda v: (0 < v) & (v <= 1), safety=safety)
    check_number("need growth > 1", lambda v: v > 1, growth=growth)
    check_number("need longest > 0", lambda v: v > 0, longest=longest)
    if not any(isinstance(t, Tracer) for t in (start, end)):
        check_levels(sde, start, end)
    x, _, dtype = check_batch(x, cond)
    settings = Settings(
        start=start,
        end=end,
        sd=sd,
        rtol=rtol,
        atol=atol,
        first=first,
        safety=safety,
        growth=growth,
        longest=longest,
    )
    settings = jax.tree.map(lambda value: jnp.asarray(value, x.dtype), settings)
    samples = _walk(Counted(denoise), sde, x, settings, cond, order, max_steps, denoise_last)
    return samples._replace(x=samples.x.astype(dtype))


def check_levels(sde: SDE, start: Any, end: Any) -> None:
    """Raise a ValueError unless signal and noise are known to be left at both ends."""
    ends = in_float64(half_log_snr, sde, np.array([start, end], np.float64))
    if not isinstance(ends, Tracer) and not np.all(np.isfinite(ends)):
        raise ValueError(
            f"the half log-SNR of {type(sde).__name__} must be finite at start = {start} and "
            f"end = {end}, got {ends}; "
            "leave both out, or start below 1 (start=0.99) and end above 0"
        )


class Settings(NamedTuple):
    """The numbers of `dpm_adaptive`, in the type of the state."""

    start: Any
    end: Any
    sd: Any
    rtol: Any
    atol: Any
    first: Any
    safety: Any
    growth: Any
    longest: Any


class Progress(NamedTuple):
    """How far one sample has come."""

    lam: Array  # () half log-SNR
    h: Array  # () length of the next step
    x: Array  # (...) the state
    lower: Array  # (...) the lower-order solution at the last accepted step, normalised
    recalled: Any  # of the denoise function at the end of the last accepted step, leaves (1, ...)
    steps: Array | int  # so far, rejected ones included


@eqx.filter_jit
def _walk(denoise, sde, x, settings: Settings, cond, order, max_steps, denoise_last):
    """Carry every sample alone; see `dpm_adaptive`."""

    def solve_one(x, cond):
        return _solve_one(denoise, sde, x, settings, cond, order, max_steps)

    x, recalled, steps = jax.vmap(solve_one)(x, cond)
    calls = order * jnp.max(steps)
    if denoise_last:
        x = recall(denoise, x, settings.end, cond, recalled)[0].x0
        calls = calls + 1
    return Samples(x=x, nfe=calls * evaluations(denoise, x, cond), path=None)


def _solve_one(denoise, sde, x, settings: Settings, cond, order, max_steps):
    """Return the end of one sample (...), NaN if it did not arrive, its memory, and the steps."""
    lam_start, lam_end = (0.5 * sde.log_snr(t) for t in (settings.start, settings.end))
    cond = jax.tree.map(lambda a: a[None], cond)

    def scale(lam):
        alpha, sigma = sde.marginal(time_of(sde, lam))
        return jnp.hypot(settings.sd * alpha, sigma)

    def take_step(at: Progress) -> Progress:
        called = Recalling(denoise, at.recalled)

        def noise(lam, x):
            return called(x[None], time_of(sde, lam), cond).noise[0]

        to = jnp.minimum(at.lam + at.h, lam_end)
        low, high = pair(sde, noise, at.lam, to, at.x, order)
        size = scale(to)
        lower = low / size
        largest = jnp.maximum(jnp.abs(lower), jnp.abs(at.lower))
        tolerance = jnp.maximum(settings.atol, settings.rtol * largest)
        error = jnp.sqrt(jnp.mean(((high - low) / size / tolerance) ** 2))
        accepted = error <= 1
        lam = jnp.where(accepted, to, at.lam)
        factor = settings.safety * jnp.maximum(error, 1e-8) ** (-1 / order)
        h = at.h * jnp.minimum(factor, settings.growth)
        return Progress(
            lam=lam,
            h=jnp.minimum(h, jnp.minimum(settings.longest, lam_end - lam)),
            x=jnp.where(accepted, high, at.x),
            lower=jnp.where(accepted, lower, at.lower),
            recalled=jax.tree.map(partial(jnp.where, accepted), called.memory, at.recalled),
            steps=at.steps + 1,
        )

    def unfinished(at: Progress):
        # A length that is not a number ends the walk.
        return (at.lam < lam_end) & (at.h > 0) & (at.steps < max_steps)

    begin = Progress(
        lam=lam_start,
        h=settings.first,
        x=x,
        lower=x / scale(lam_start),
        recalled=init_memory(denoise, x[None]),
        steps=0,
    )
    last = jax.lax.while_loop(unfinished, take_step, begin)
    end = jnp.where(last.lam < lam_end, jnp.nan, last.x)
    return end, jax.tree.map(lambda a: a[0], last.recalled), last.steps


def time_of(sde: SDE, lam: Array) -> Array:
    """Return the time of a half log-SNR, in its type."""
    return sde.time(2 * lam).astype(lam.dtype)


def pair(sde: SDE, noise, lam: Array, lam_s: Array, x: Array, order: int) -> tuple[Array, Array]:
    """Return the solutions of order - 1 and of `order` of one step, each like `x`.

    Args:
        sde: the process.
        noise: (half log-SNR, state) -> the noise predicted there.
        lam: half log-SNR at the start of the step.
        lam_s: half log-SNR at its end.
        x: the state of one sample at the start (...).
        order: 2 or 3.
    """
    h = lam_s - lam
    r = 1 / order
    alpha, sigma = sde.marginal(time_of(sde, lam))
    first = noise(lam, x)

    def first_order(fraction):
        """Return the state by the noise predicted at the start, and the scales of further terms."""
        alpha_r, sigma_r = sde.marginal(time_of(sde, lam + fraction * h))
        scales = (sigma_r * moments(-fraction * h, 2)).astype(x.dtype)
        return alpha_r / alpha * x + scales[0] * first, scales

    between, _ = first_order(r)
    change = noise(lam + r * h, between) - first
    end, (zeroth, linear) = first_order(1.0)
    second_order = end + zeroth / (2 * r) * change
    if order == 2:
        return end, second_order
    between, (_, slope) = first_order(2 * r)
    later_change = noise(lam + 2 * r * h, between + 2 * slope * change) - first
    return second_order, end + linear / (2 * r) * later_change
