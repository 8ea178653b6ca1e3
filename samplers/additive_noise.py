"""A stochastic differential equation with additive noise and adaptive steps.

diffrax solves it, and is imported with this module only.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class TimedNoise(diffrax.AbstractTerm):
    """The term G(tau) dB, one independent Brownian motion a coordinate; see diffrax.AbstractTerm.

    Attributes:
        size: tau -> G.
        path: the Brownian motion.
    """

    size: Callable
    path: diffrax.AbstractBrownianPath

    def vf(self, t, y, args):
        """Return the size of the noise at every coordinate."""
        return jnp.full_like(y, self.size(t))

    def contr(self, t0, t1, **kwargs):
        """Return the increment of the path from `t0` to `t1`."""
        return self.path.evaluate(t0, t1, **kwargs)

    def prod(self, vf, control):
        """Return the noise of a step."""
        return vf * control


def solve(
    key: Key[Array, ""],
    drift: Callable,
    noise: Callable,
    first: Float[Array, ""],
    last: Float[Array, ""],
    start: Array,
    args: Any,
    atol: Float[Array, ""],
    dtmin: float,
    max_steps: int,
) -> tuple[Array, Int[Array, ""]]:
    """Carry a state along du = drift(t, u, args) dt + noise(t) dB by ShARK (arXiv:2405.06464).

    Args:
        key: draws the Brownian path.
        drift: (t, u, args) -> array like u.
        noise: t -> the size of the noise, ().
        first: the time at the start.
        last: the time at the end, later than `first`.
        start: the state at the start (...).
        args: handed to `drift`.
        atol: root mean square of a step's error.
        dtmin: the shortest step, in the units of time.
        max_steps: after so many steps the state is given up.

    Returns:
        The end, NaN where it was not reached within `max_steps` steps, and the steps made.
    """
    shape = jax.ShapeDtypeStruct(start.shape, start.dtype)
    path = diffrax.VirtualBrownianTree(
        first, last, 0.25 * dtmin, shape, key, levy_area=diffrax.SpaceTimeLevyArea
    )
    solution = diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(drift), TimedNoise(noise, path)),
        diffrax.ShARK(),
        t0=first,
        t1=last,
        dt0=0.1,
        y0=start,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=atol, dtmin=dtmin),
        max_steps=max_steps,
        throw=False,
    )
    end = jax.tree.leaves(solution.ys)[0][-1]
    arrived = solution.result == diffrax.RESULTS.successful
    return jnp.where(arrived, end, jnp.nan), solution.stats["num_steps"]
