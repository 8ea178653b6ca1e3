r"""The probability flow with adaptive steps (Song et al. 2021, arXiv:2011.13456, eq. 13).

For every SDE the flow is integrated where it is smooth: over the angle
:math:`\theta = \arctan(\sigma / \alpha)`, in the normalised state :math:`u = x / h` with
:math:`h = \sqrt{\alpha^2 + \sigma^2}` (Salimans and Ho 2022, arXiv:2202.00512, appendix D),

.. math:: du/d\theta = \cos\theta\,\hat\epsilon - \sin\theta\,\hat x_0 .

This equation does not depend on how fast the process runs through its noise levels. Data of
standard deviation s are taken as data x_0 / s of unit scale in a process of :math:`s \alpha`;
centred normal data then do not move at all. diffrax always runs in increasing pseudo-time. Each
sample has step sizes of its own, so that it does not depend on its batch. The whole batch is
evaluated until its slowest member is done, and `nfe` counts these evaluations.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array

from sde_lib import SDE, Denoise, in_float64

from .checks import check_batch, check_problem, check_span, check_tolerance
from .counted import Counted, evaluations
from .data_size import data_sd, end_time
from .signal import signal_and_noise
from .walk import Samples


def probability_flow(
    denoise: Denoise,
    sde: SDE,
    x: Array,
    *,
    start: ArrayLike = 1.0,
    end: ArrayLike | None = None,
    sd: ArrayLike | None = None,
    cond: Any = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    max_steps: int = 4096,
    denoise_last: bool | None = None,
) -> Samples:
    """Carry `x` (batch, ...) along the probability flow, in either direction.

    Args:
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: the state at `start` (batch, ...).
        start: the time where the walk starts.
        end: the time where it ends; by default near data, at 1e-3 or earlier where noise is above a
            hundredth of the data.
        sd: standard deviation of the data; by default the denoiser's `sigma_data`, else 1.
        cond: a pytree of conditions with leading axis `batch`.
        rtol: relative tolerance of a step in the normalised state, of unit size from data to noise.
        atol: absolute tolerance of it.
        max_steps: after so many steps a sample is given up.
        denoise_last: return the expected clean data at `end`, with one more evaluation; the default
            does so when going to data.

    Returns:
        Samples in the floating type of `x`; a sample that did not arrive within `max_steps` steps
        is NaN.

    Raises:
        ValueError: impossible times, tolerances or state, or conditions that do not fit the batch.
    """
    check_problem(denoise, sde)
    sd = data_sd(denoise, sd)
    to_data = end is None
    last: Any = end_time(sde, sd) if end is None else end
    check_span(sde, start, last, falling=False)
    check_tolerance(rtol, atol, max_steps)
    x, _, dtype = check_batch(x, cond)
    if denoise_last is None and not to_data:
        if isinstance(start, Tracer) or isinstance(last, Tracer):
            raise ValueError(
                "start or end is traced, so that the direction is not known; "
                "say whether to denoise_last"
            )
        to_data = bool(last < start)
    clean = to_data if denoise_last is None else denoise_last
    numbers = tuple(jnp.asarray(v, x.dtype) for v in (start, last, sd, rtol, atol))
    samples = _flow(Counted(denoise), sde, x, numbers, cond, max_steps, clean)
    return samples._replace(x=samples.x.astype(dtype))


@eqx.filter_jit
def _flow(denoise, sde, x, numbers, cond, max_steps, denoise_last):
    start, end, sd, rtol, atol = numbers
    (first, scale), (last, end_scale) = angle(sde, start, sd), angle(sde, end, sd)

    def field(theta, u, cond):
        return velocity(denoise, sde, theta, u, cond, sd)

    u, calls = solve("Tsit5", field, first, last, x / scale, cond, rtol, atol, max_steps)
    x = u * end_scale
    if denoise_last:
        x = denoise(x, end, cond).x0
        calls = calls + 1
    return Samples(x=x, nfe=calls * evaluations(denoise, x, cond), path=None)


def check_noisy(sde: SDE) -> None:
    """Raise a ValueError if sigma is known to be 0 at t_min.

    Log-densities, and the flow towards them, are singular there.
    """
    _, sigma = in_float64(signal_and_noise, sde, sde.t_min)
    if not isinstance(sigma, Tracer) and not sigma > 0:
        raise ValueError(
            f"sigma is 0 at t_min = {sde.t_min}, where a likelihood is singular; "
            "raise t_min above 0"
        )


def angle(sde, t, sd):
    """Return the angle theta of time `t` and the scale h, each (), for data of deviation `sd`."""
    alpha, sigma = sde.marginal(t)
    return jnp.arctan2(sigma, sd * alpha), jnp.hypot(sd * alpha, sigma)


def velocity(denoise, sde, theta, u, cond, sd):
    """Return du/dtheta (1, ...) for a batch of one at the angle `theta`, ()."""
    signal = jnp.maximum(jnp.cos(theta), 0.0) / sd  # pi / 2 in float32 lies beyond it
    t = sde.time(2 * (jnp.log(signal) - jnp.log(jnp.sin(theta)))).astype(theta.dtype)
    alpha, sigma = sde.marginal(t)
    estimate = denoise(jnp.hypot(sd * alpha, sigma) * u, t, cond)
    return jnp.cos(theta) * estimate.noise - jnp.sin(theta) / sd * estimate.x0


def solve(method, field, first, last, state, args, rtol, atol, max_steps):
    """Integrate `field(theta, state, args)` from one angle to another, each sample alone.

    Args:
        method: a solver of diffrax by its name. It calls the field six times a step, as the first
            of its seven stages is the last of the step before.
        field: (theta, state, args) -> d state / d theta, for a batch of one.
        first: the angle at the start, ().
        last: the angle at the end, earlier or later.
        state: a pytree of arrays (batch, ...).
        args: likewise.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: after so many steps a sample is given up.

    Returns:
        The state at the end, and the calls of `field` that the slowest sample made.
    """
    import diffrax  # takes as long to import as JAX, and walks of fixed steps do without it

    sign, span = jnp.sign(last - first), jnp.abs(last - first)

    def forward(r, state, args):
        return jax.tree.map(lambda rate: sign * rate, field(first + sign * r, state, args))

    def solve_one(state, args):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(forward),
            getattr(diffrax, method)(),
            t0=0.0,
            t1=span,
            dt0=0.01 * span,
            y0=jax.tree.map(lambda a: a[None], state),
            args=jax.tree.map(lambda a: a[None], args),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=max_steps,
            throw=False,
        )
        arrived = solution.result == diffrax.RESULTS.successful
        end = jax.tree.map(lambda a: jnp.where(arrived, a[-1, 0], jnp.nan), solution.ys)
        return end, solution.stats["num_steps"]

    end, steps = jax.vmap(solve_one)(state, args)
    return end, 1 + 6 * jnp.max(steps)
