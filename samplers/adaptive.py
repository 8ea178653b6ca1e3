r"""The reverse SDE with adaptive steps, in the variable where it is nothing but data and Brownian motion.

With the signal-to-noise ratio :math:`r = \alpha^2 / \sigma^2` as time, which grows on the way back, and :math:`w = \alpha x / \sigma^2`,
the reverse SDE (Song et al. 2021, arXiv:2011.13456, eq. 6) of every process is

.. math:: dw = \hat x_0\,dr + dB_r .

Its linear part has gone into the variable exactly (arXiv:2211.01095, eq. 18, with the data prediction), its noise is additive and of unit
size, and time increases, as diffrax's solvers with space-time Levy area need. Each sample has step sizes, and a Brownian path from its
own key, so it does not depend on its batch; the whole batch is evaluated until its slowest member is done, which is what `nfe` counts.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sde_lib import SDE

from .base import Counted, Denoise, Samples, sample_keys


class UnitNoise(diffrax.AbstractTerm):
    """The term dB_r, one independent Brownian motion a coordinate."""

    path: diffrax.AbstractBrownianPath

    def vf(self, t, y, args):
        return jnp.ones_like(y)

    def contr(self, t0, t1, **kwargs):
        return self.path.evaluate(t0, t1, **kwargs)

    def prod(self, vf, control):
        return vf * control


@eqx.filter_jit
def reverse_sde(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    x: Float[Array, "batch ..."],
    *,
    start: float = 1.0,
    end: float = 1e-3,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
    rtol: float | Array = 0.03,
    max_steps: int = 4096,
) -> Samples:
    """Carry `x` from time `start` down to time `end` along the reverse SDE, and denoise it there.

    Args:
        key: draws the Brownian path of each sample from its `index` (default 0, 1, ...).
        rtol: error of a step relative to w, which data and noise make up; its root mean square over the dimensions counts. The default
            took the slowest of 2048 samples of a mixture in the plane 155 steps; a walk of fixed steps, see `recommended`, is cheaper.

    Returns:
        Samples; a sample that did not arrive within `max_steps` steps is NaN.
    """
    if not sde.t_min <= end < start <= 1:
        raise ValueError(
            f"the reverse SDE runs from start down to end, both between t_min = {sde.t_min} and 1, got {start} and {end}"
        )
    denoise = Counted(denoise)
    (alpha, sigma), (alpha_s, sigma_s) = (
        sde.marginal(jnp.asarray(t, x.dtype)) for t in (start, end)
    )
    first, last = (alpha / sigma) ** 2, (alpha_s / sigma_s) ** 2
    keys = sample_keys(key, jnp.arange(len(x)) if index is None else index)

    def drift(r, w, cond):
        t = sde.time(jnp.log(r)).astype(x.dtype)
        alpha, sigma = sde.marginal(t)
        return denoise((sigma**2 / alpha * w)[None], t, cond).x0[0]

    def alone(key, w, cond):
        path = diffrax.VirtualBrownianTree(
            first,
            last,
            0.01 * first,
            jax.ShapeDtypeStruct(w.shape, w.dtype),
            key,
            levy_area=diffrax.SpaceTimeLevyArea,
        )
        solution = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), UnitNoise(path)),
            diffrax.ShARK(),
            t0=first,
            t1=last,
            dt0=first,
            y0=w,
            args=jax.tree.map(lambda a: a[None], cond),
            stepsize_controller=diffrax.PIDController(
                rtol=rtol, atol=1e-3 * rtol * jnp.sqrt(first), dtmin=0.1 * first
            ),
            max_steps=max_steps,
            throw=False,
        )
        end = jax.tree.leaves(solution.ys)[0][-1]
        arrived = solution.result == diffrax.RESULTS.successful
        return jnp.where(arrived, end, jnp.nan), solution.stats["num_steps"]

    w, steps = jax.vmap(alone)(keys, alpha / sigma**2 * x, cond)
    x = sigma_s**2 / alpha_s * w
    return Samples(denoise(x, jnp.asarray(end, x.dtype), cond).x0, 1 + 2 * jnp.max(steps), None)
