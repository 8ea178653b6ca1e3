r"""DPM-Solver-12 and -23: adaptive steps along the probability flow (Lu et al. 2022, arXiv:2206.00927, appendix C).

A step of length h in half log-SNR takes the solution of order k - 1 from the network calls that the one of order k makes anyhow. Their
difference, relative to a tolerance in the state x, is accepted up to a root mean square E of 1, and sets the next length,

.. math:: \delta = \max(\text{atol}, \text{rtol} \max(|x_{k-1}|, |x_{k-1}^\text{before}|)), \qquad h \leftarrow \theta\,h\,E^{-1/k} .

The paper takes the worst E of a batch; here each sample has steps of its own and does not depend on its batch, which is evaluated until
its slowest member is done. That is what `nfe` counts, rejected steps included.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sde_lib import SDE, in_float64

from .base import Counted, Denoise, Samples
from .exponential import half_log_snr, moments


@eqx.filter_jit
def dpm_adaptive(
    denoise: Denoise,
    sde: SDE,
    x: Float[Array, "batch ..."],
    *,
    order: int = 3,
    start: float = 1.0,
    end: float = 1e-3,
    cond: Any = None,
    rtol: ArrayLike = 0.05,
    atol: ArrayLike = 0.0078,
    first: ArrayLike = 0.05,
    safety: ArrayLike = 0.9,
    max_steps: int = 1000,
    denoise_last: bool = True,
) -> Samples:
    """Carry `x` along the probability flow from time `start` down to `end`, where signal and noise are both left.

    Args:
        order: 2 or 3, of the better of the two solutions, and as many network calls a step. The defaults below are the paper's.
        first: length of the first step in half log-SNR.
        safety: theta.
        denoise_last: return the expected clean data at `end`, with one more evaluation.

    Returns:
        Samples; a sample that did not arrive within `max_steps` steps is NaN.

    Raises:
        ValueError: another order, times that do not fall, or no signal or no noise at one of them.
    """
    if order not in (2, 3):
        raise ValueError(f"DPM-Solver-12 has order 2, DPM-Solver-23 order 3, got order {order}")
    if not sde.t_min <= end < start <= 1:
        raise ValueError(
            f"the solver runs from start down to end, both between t_min = {sde.t_min} and 1, got {start} and {end}"
        )
    ends = in_float64(half_log_snr, sde, np.array([start, end]))
    if not isinstance(ends, Tracer) and not np.all(np.isfinite(ends)):
        raise ValueError(
            f"the half log-SNR of {type(sde).__name__} must be finite at start = {start} and end = {end}, got {ends}; move them"
        )
    denoise = Counted(denoise)
    lam_start, lam_end = (0.5 * sde.log_snr(jnp.asarray(t, x.dtype)) for t in (start, end))

    def noise(lam, x, cond):
        t = sde.time(2 * lam).astype(x.dtype)
        return denoise(x[None], t, cond).noise[0]

    def alone(x, cond):
        cond = jax.tree.map(lambda a: a[None], cond)

        def body(state):
            lam, h, x, before, steps = state
            low, high = pair(
                sde,
                lambda lam, x: noise(lam, x, cond),
                lam,
                jnp.minimum(lam + h, lam_end),
                x,
                order,
            )
            tolerance = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(low), jnp.abs(before)))
            error = jnp.sqrt(jnp.mean(((high - low) / tolerance) ** 2))
            accepted = error <= 1
            lam = jnp.where(accepted, jnp.minimum(lam + h, lam_end), lam)
            h = safety * h * jnp.maximum(error, 1e-8) ** (-1 / order)
            return (
                lam,
                jnp.minimum(h, lam_end - lam),
                jnp.where(accepted, high, x),
                jnp.where(accepted, low, before),
                steps + 1,
            )

        def unfinished(state):  # a length that is not a number ends the walk
            lam, h, _, _, steps = state
            return (lam < lam_end) & (h > 0) & (steps < max_steps)

        lam, _, x, _, steps = jax.lax.while_loop(
            unfinished, body, (lam_start, jnp.asarray(first, x.dtype), x, x, 0)
        )
        return jnp.where(lam < lam_end, jnp.nan, x), steps

    x, steps = jax.vmap(alone)(x, cond)
    nfe = order * jnp.max(steps)
    if denoise_last:
        x, nfe = denoise(x, jnp.asarray(end, x.dtype), cond).x0, nfe + 1
    return Samples(x, nfe, None)


def pair(sde: SDE, noise, lam: Array, lam_s: Array, x: Array, order: int) -> tuple[Array, Array]:
    """Return the solutions of order - 1 and of `order` of one step from half log-SNR `lam` to `lam_s`."""
    h, r = lam_s - lam, 1 / order
    alpha, sigma = sde.marginal(sde.time(2 * lam))
    first = noise(lam, x)

    def reach(
        fraction,
    ):  # what the noise predicted at the start gives, then the scale of further terms
        alpha_r, sigma_r = sde.marginal(sde.time(2 * (lam + fraction * h)))
        return alpha_r / alpha * x + sigma_r * moments(-fraction * h, 1)[
            0
        ] * first, sigma_r * moments(-fraction * h, 2)

    between, _ = reach(r)
    change = noise(lam + r * h, between) - first
    constant, (zeroth, linear) = reach(1.0)
    second = constant + zeroth / (2 * r) * change
    if order == 2:
        return constant, second
    between, (_, bent) = reach(2 * r)
    later = noise(lam + 2 * r * h, between + 2 * bent * change) - first
    return second, constant + linear / (2 * r) * later
