r"""The n noise levels that DDPM and SMLD are trained on, as a process in continuous time.

Time i / n is level i of the schedule, i = 1 .. n, and t = 0 the data. Between two levels f and g
are constant,

.. math:: x_{i} = A_i x_{i-1} + G_i z, \qquad f = n \log A_i, \qquad
    g^2 = G_i^2\,\frac{2 f}{A_i^2 - 1},

so that a sampler with n equal steps takes exactly the transitions of the schedule: with
A^2 = 1 - beta_i and G^2 = beta_i those of DDPM (Ho et al. 2020, arXiv:2006.11239), with A = 1 and
G^2 = sigma_i^2 - sigma_{i-1}^2 those of SMLD (Song and Ermon 2019, arXiv:1907.05600), sigma_0 being
0. Published networks number the levels from 0, upwards or downwards, see `label` and the rows of
`INPUTS`.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from .arrays import at_least_float32, in_float64
from .base import SDE, check_process
from .checks import known
from .estimate import Number


class Schedule(NamedTuple):
    """The noise levels 0 .. n and the transitions between them."""

    log_alpha: Array  # (n + 1,) of the levels
    variance: Array  # (n + 1,) sigma^2 of the levels
    transition_variance: Array  # (n,) G^2 of the transitions


class Place(NamedTuple):
    """Where times lie in a schedule, elementwise."""

    log_alpha: Array  # of the level before
    variance: Array  # sigma^2 of the level before
    log_ratio: Array  # log A of the transition around the time
    transition_variance: Array  # G^2 of it
    part: Array  # of the transition that is done, from 0 to 1


class Discrete(SDE):
    """A process at `n` discrete noise levels, for networks that were trained on these.

    Attributes:
        sde: the process.
        n: the number of noise levels.
        t_min: the first level, below which the networks know nothing.
    """

    sde: SDE
    n: int = eqx.field(static=True)

    def __init__(self, sde: SDE, n: int, *, t_min: float | None = None):
        """Wrap a process at the levels of its `discrete_schedule`.

        Raises:
            ValueError: fewer than two levels, or one without signal, such as a rectified flow's
                last.
        """
        check_process("Discrete", sde)
        if not isinstance(n, int | np.integer) or n < 2:
            raise ValueError(f"need at least two noise levels, a whole number, got n = {n!r}")
        self.sde = sde
        self.n = int(n)
        self.t_min = 1 / n if t_min is None else t_min
        log_alpha = self.schedule().log_alpha
        if known(log_alpha) and not np.all(np.isfinite(log_alpha)):
            raise ValueError(
                f"{type(sde).__name__} at n = {n} levels has a step that leaves no signal, A = 0; "
                "use more levels (VP needs n > beta_max), or a process that ends with some signal"
            )

    def schedule(self) -> Schedule:
        """Return the noise levels and the transitions between them, in float64 where possible."""
        return in_float64(_schedule, self.sde, self.n)

    def _place(self, t: Array) -> Place:
        """Return where the times `t` lie in the schedule."""
        log_alpha, variance, transition_variance = (
            jnp.asarray(a, t.dtype) for a in self.schedule()
        )
        i = jnp.clip(jnp.floor(self.n * t).astype(int), 0, self.n - 1)
        return Place(
            log_alpha=log_alpha[i],
            variance=variance[i],
            log_ratio=log_alpha[i + 1] - log_alpha[i],
            transition_variance=transition_variance[i],
            part=self.n * t - i,
        )

    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return `alpha` and `sigma` at `t`, elementwise; at i / n those of the schedule."""
        log_alpha, variance, log_ratio, transition_variance, part = self._place(at_least_float32(t))
        still = log_ratio == 0
        whole = jnp.expm1(jnp.where(still, 1.0, 2 * log_ratio))
        grown = jnp.where(still, part, jnp.expm1(2 * part * log_ratio) / whole)
        alpha = jnp.exp(log_alpha + part * log_ratio)
        return alpha, jnp.sqrt(
            jnp.exp(2 * part * log_ratio) * variance + grown * transition_variance
        )

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return `f` and `g` at `t`, elementwise, constant between two levels."""
        _, _, log_ratio, transition_variance, _ = self._place(at_least_float32(t))
        still = log_ratio == 0
        whole = jnp.expm1(jnp.where(still, 1.0, 2 * log_ratio))
        rate = jnp.where(still, 1.0, 2 * log_ratio / whole)
        return self.n * log_ratio, jnp.sqrt(self.n * transition_variance * rate)

    def label(self, t: Array) -> Array:
        """Return the number that networks know a level by, elementwise.

        It is 0 for the cleanest and n - 1 for the noisiest; between levels it is a fraction.
        """
        label = jnp.maximum(self.n * at_least_float32(t) - 1, 0.0)
        whole = jnp.round(label)
        # float32 misses a level by 1e-4 of the distance to the next.
        return jnp.where(jnp.abs(label - whole) < 1e-3, whole, label)

    def prior_std(self) -> Number:
        """Return that of the process."""
        return self.sde.prior_std()


def _schedule(sde: SDE, n: int) -> Schedule:
    """Return the schedule of levels 0 .. n, of which the process gives 1 .. n."""
    log_alpha, sigma = sde.discrete_schedule(n)
    log_alpha, variance = jnp.append(0.0, log_alpha), jnp.append(0.0, sigma) ** 2
    return Schedule(
        log_alpha=log_alpha,
        variance=variance,
        transition_variance=variance[1:] - jnp.exp(2 * jnp.diff(log_alpha)) * variance[:-1],
    )
