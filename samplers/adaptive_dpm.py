r"""DPM-Solver-12 and -23: adaptive steps along the probability flow (Lu et al. 2022,
arXiv:2206.00927, appendix C).

A step of length h in half log-SNR takes the solution of order k - 1 from the network calls that the
one of order k makes anyhow. Their difference, relative to a tolerance in the normalised state
:math:`u = x / \sqrt{s^2 \alpha^2 + \sigma^2}` for data of standard deviation s, is accepted up to a
root mean square E of 1, and sets the next length,

.. math:: \delta = \max(\text{atol}, \text{rtol} \max(|u_{k-1}|, |u_{k-1}^\text{before}|)), \qquad
    h \leftarrow h \min(\text{growth}, \theta\,E^{-1/k}) .

The paper measures x itself, which is the same for VP and s = 1; where noise is larger than the
data, as in VE and EDM, that tolerates any error that the state of before would hide. It also lets h
grow without bound: while the state is noise E is almost 0, and the step after it jumps over the
data. The paper takes the worst E of a batch; here each sample has steps of its own and does not
depend on its batch, which is evaluated until its slowest member is done. That is what `nfe` counts,
rejected steps included.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array

from sde_lib import SDE, in_float64

from .base import Samples
from .checks import check_batch, check_number, check_problem, check_span, check_tolerance
from .counted import Counted, Denoise, evaluations
from .data_size import data_sd, end_time, start_time
from .exponential import half_log_snr, moments


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
    """Carry `x` (batch, ...) along the probability flow from time `start` down to `end`, where
    signal and noise are both left.

    Args:
        order: 2 or 3, of the better of the two solutions, and as many network calls a step. The
            other defaults are the paper's.
        start: by default 1, or earlier where no signal is left at 1.
        end: by default near data, at 1e-3 or earlier where noise is above a hundredth of the data.
        sd: standard deviation of the data; by default the denoiser's `sigma_data`, else 1.
        first: length of the first step in half log-SNR.
        safety: theta.
        growth: largest factor from one step to the next; infinite in the paper.
        longest: greatest length of a step in half log-SNR; infinite in the paper. Where the flow is
            nearly linear the two solutions agree over longer ones without being right.
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
    numbers = tuple(
        jnp.asarray(v, x.dtype)
        for v in (start, end, sd, rtol, atol, first, safety, growth, longest)
    )
    samples = _walk(Counted(denoise), sde, x, numbers, cond, order, max_steps, denoise_last)
    return samples._replace(x=samples.x.astype(dtype))


def check_levels(sde: SDE, start: Any, end: Any) -> None:
    """Raise a ValueError unless signal and noise are left at both ends, as far as the process is
    concrete.
    """
    ends = in_float64(half_log_snr, sde, np.array([start, end], np.float64))
    if not isinstance(ends, Tracer) and not np.all(np.isfinite(ends)):
        raise ValueError(
            f"the half log-SNR of {type(sde).__name__} must be finite at start = {start} and end = {end}, got {ends}; "
            "leave both out, or start below 1 (start=0.99) and end above 0"
        )


@eqx.filter_jit
def _walk(denoise, sde, x, numbers, cond, order, max_steps, denoise_last):
    start, end, sd, rtol, atol, first, safety, growth, longest = numbers
    lam_start, lam_end = (0.5 * sde.log_snr(t) for t in (start, end))

    def scale(lam):
        alpha, sigma = sde.marginal(time_of(sde, lam))
        return jnp.hypot(sd * alpha, sigma)

    def alone(x, cond):
        cond = jax.tree.map(lambda a: a[None], cond)

        def noise(lam, x):
            return denoise(x[None], time_of(sde, lam), cond).noise[0]

        def body(state):
            lam, h, x, before, steps = state
            to = jnp.minimum(lam + h, lam_end)
            low, high = pair(sde, noise, lam, to, x, order)
            size = scale(to)
            now = low / size
            tolerance = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(now), jnp.abs(before)))
            error = jnp.sqrt(jnp.mean(((high - low) / size / tolerance) ** 2))
            accepted = error <= 1
            lam = jnp.where(accepted, to, lam)
            factor = safety * jnp.maximum(error, 1e-8) ** (-1 / order)
            h = jnp.minimum(h * jnp.minimum(factor, growth), jnp.minimum(longest, lam_end - lam))
            x, before = jnp.where(accepted, high, x), jnp.where(accepted, now, before)
            return lam, h, x, before, steps + 1

        def unfinished(state):  # a length that is not a number ends the walk
            lam, h, _, _, steps = state
            return (lam < lam_end) & (h > 0) & (steps < max_steps)

        start = (lam_start, first, x, x / scale(lam_start), 0)
        lam, _, x, _, steps = jax.lax.while_loop(unfinished, body, start)
        return jnp.where(lam < lam_end, jnp.nan, x), steps

    x, steps = jax.vmap(alone)(x, cond)
    calls = order * jnp.max(steps)
    if denoise_last:
        x, calls = denoise(x, end, cond).x0, calls + 1
    return Samples(x, calls * evaluations(denoise, x, cond), None)


def time_of(sde: SDE, lam: Array) -> Array:
    """Return the time of a half log-SNR, in its type."""
    return sde.time(2 * lam).astype(lam.dtype)


def pair(sde: SDE, noise, lam: Array, lam_s: Array, x: Array, order: int) -> tuple[Array, Array]:
    """Return the solutions of order - 1 and of `order` of one step from half log-SNR `lam` to
    `lam_s`.
    """
    h, r = lam_s - lam, 1 / order
    alpha, sigma = sde.marginal(time_of(sde, lam))
    first = noise(lam, x)

    def reach(fraction):
        """Return what the noise predicted at the start gives, and the scale of further terms."""
        alpha_r, sigma_r = sde.marginal(time_of(sde, lam + fraction * h))
        scales = (sigma_r * moments(-fraction * h, 2)).astype(x.dtype)
        return alpha_r / alpha * x + scales[0] * first, scales

    between, _ = reach(r)
    change = noise(lam + r * h, between) - first
    constant, (zeroth, linear) = reach(1.0)
    second = constant + zeroth / (2 * r) * change
    if order == 2:
        return constant, second
    between, (_, bent) = reach(2 * r)
    later = noise(lam + 2 * r * h, between + 2 * bent * change) - first
    return second, constant + linear / (2 * r) * later
