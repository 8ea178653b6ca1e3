r"""The reverse SDE with adaptive steps.

It is solved in a variable in which it is nothing but data and Brownian motion. With the
signal-to-noise ratio :math:`r = \alpha^2 / \sigma^2` as time, which grows on the way back, and
:math:`w = \alpha x / \sigma^2`, the reverse SDE (Song et al. 2021, arXiv:2011.13456, eq. 6) of
every process is

.. math:: dw = \hat x_0\,dr + dB_r .

The variable contains the linear part exactly (arXiv:2211.01095, eq. 18, with the data prediction),
the noise is additive and of unit size, and time increases, as diffrax's solvers with space-time
Levy area need. Each sample has its own step sizes and a Brownian path from its own key, so that it
does not depend on its batch. The whole batch is evaluated until its slowest member is done, and
`nfe` counts these evaluations.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key

from sde_lib import SDE, Denoise

from .adaptive_dpm import check_levels
from .base import sample_keys
from .checks import check_batch, check_key, check_problem, check_span, check_tolerance
from .counted import Counted, evaluations
from .data_size import data_sd, end_time, start_time
from .walk import Samples

DTMIN = 1e-3  # shortest step in log-SNR, of which a walk covers about 20


def reverse_sde(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    x: Array,
    *,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    sd: ArrayLike | None = None,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
    rtol: ArrayLike = 0.03,
    max_steps: int = 4096,
) -> Samples:
    """Carry `x` (batch, ...) along the reverse SDE from `start` to `end` and denoise it there.

    Args:
        key: draws the Brownian path of each sample from its `index` (default 0, 1, ...).
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: the state at `start` (batch, ...).
        start: by default 1, or earlier where no signal is left at 1.
        end: by default near data, at 1e-3 or earlier where noise is above a hundredth of the data.
        sd: standard deviation of the data, which says where to start and end; by default the
            denoiser's `sigma_data`, else 1.
        cond: a pytree of conditions with leading axis `batch`.
        index: the number (batch,) of each sample in its run.
        rtol: error of a step relative to w, which data and noise make up; its root mean square over
            the dimensions counts. The default took the slowest of 2048 samples of a mixture in the
            plane 155 steps; a walk of fixed steps, see `recommended`, is cheaper.
        max_steps: after so many steps a sample is given up.

    Returns:
        Samples in the floating type of `x`; a sample that did not arrive within `max_steps` steps
        is NaN.

    Raises:
        ValueError: times that do not fall, no signal or no noise at one of them, an impossible
            tolerance or state.
    """
    check_key(key)
    check_problem(denoise, sde)
    sd = data_sd(denoise, sd)
    start = start_time(sde, sd) if start is None else start
    end = end_time(sde, sd) if end is None else end
    check_span(sde, start, end)
    check_tolerance(rtol, 0.0, max_steps)
    if not any(isinstance(t, Tracer) for t in (start, end)):
        check_levels(sde, start, end)
    x, index, dtype = check_batch(x, cond, index)
    numbers = tuple(jnp.asarray(v, x.dtype) for v in (start, end, sd, rtol))
    keys = sample_keys(key, index)
    samples = _solve(keys, Counted(denoise), sde, x, numbers, cond, max_steps)
    return samples._replace(x=samples.x.astype(dtype))


@eqx.filter_jit
def _solve(keys, denoise, sde, x, numbers, cond, max_steps):
    """Solve in tau = log r, for data of standard deviation `sd`."""
    start, end, sd, rtol = numbers
    first, last = sde.log_snr(start), sde.log_snr(end)
    # diffrax takes as long to import as JAX, and walks of fixed steps do without it
    from .additive_noise import solve

    def scale(t):
        alpha, sigma = sde.marginal(t)
        return jnp.hypot(sd * alpha, sigma)

    def signal(tau):
        return jax.nn.sigmoid(tau + 2 * jnp.log(sd))  # q / (1 + q)

    def drift(tau, u, cond):
        t = sde.time(tau).astype(x.dtype)
        x0 = denoise((scale(t) * u)[None], t, cond).x0[0]
        return jnp.sqrt(signal(tau)) * x0 / sd - 0.5 * (1 + signal(tau)) * u

    def noise(tau):
        return jnp.sqrt(1 - signal(tau))

    def solve_one(key, u, cond):
        cond = jax.tree.map(lambda a: a[None], cond)
        return solve(key, drift, noise, first, last, u, cond, rtol, DTMIN, max_steps)

    u, steps = jax.vmap(solve_one)(keys, x / scale(start), cond)
    x = scale(end) * u
    calls = 1 + 2 * jnp.max(steps)  # ShARK calls the drift twice a step
    return Samples(
        x=denoise(x, end, cond).x0,
        nfe=calls * evaluations(denoise, x, cond),
        path=None,
    )
