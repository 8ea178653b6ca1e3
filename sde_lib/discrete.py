r"""The n noise levels that DDPM and SMLD are trained on, as a process in continuous time.

Time i / n is level i of the table, i = 1 .. n, and t = 0 the data. Between two levels f and g are constant,

.. math:: x_{i} = A_i x_{i-1} + G_i z, \qquad f = n \log A_i, \qquad g^2 = G_i^2\,\frac{2 f}{A_i^2 - 1},

so that a sampler with n equal steps takes exactly the transitions of the table: with A^2 = 1 - beta_i and G^2 = beta_i those of DDPM (Ho et
al. 2020, arXiv:2006.11239), with A = 1 and G^2 = sigma_i^2 - sigma_{i-1}^2 those of SMLD (Song and Ermon 2019, arXiv:1907.05600), sigma_0
being 0. Published networks number the levels from 0, upwards or downwards, see `label` and the rows of `INPUTS`.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from .arrays import at_least_float32, in_float64
from .base import SDE, check_process
from .checks import known
from .estimate import Number


class Discrete(SDE):
    """The process `sde` at `n` noise levels, for networks trained on a table; t_min is the first level, below which they know nothing."""

    sde: SDE
    n: int = eqx.field(static=True)

    def __init__(self, sde: SDE, n: int, *, t_min: float | None = None):
        """Wrap a process whose `levels` are a table.

        Raises:
            ValueError: fewer than two levels, or one without signal, such as a rectified flow's last.
        """
        check_process("Discrete", sde)
        if not isinstance(n, int | np.integer) or n < 2:
            raise ValueError(f"need at least two noise levels, a whole number, got n = {n!r}")
        self.sde, self.n = sde, int(n)
        self.t_min = 1 / n if t_min is None else t_min
        log_alpha = self.tables()[0]
        if known(log_alpha) and not np.all(np.isfinite(log_alpha)):
            which = (
                f"{type(sde).__name__} at n = {n} levels has a step that leaves no signal, A = 0"
            )
            raise ValueError(
                f"{which}; use more levels (VP needs n > beta_max), or a process that ends with some signal"
            )

    def tables(self) -> tuple[Array, Array, Array]:
        """Return log alpha and sigma^2 of levels 0 .. n, (n + 1,), and G^2 of the steps between them, (n,)."""
        return in_float64(lambda sde: _tables(*sde.discrete_schedule(self.n)), self.sde)

    def _at(self, t: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Return log alpha and sigma^2 of the level before `t`, log A and G^2 of the step around it, and the part of it that is done."""
        log_alpha, variance, spread = (jnp.asarray(a, t.dtype) for a in self.tables())
        i = jnp.clip(jnp.floor(self.n * t).astype(int), 0, self.n - 1)
        return log_alpha[i], variance[i], log_alpha[i + 1] - log_alpha[i], spread[i], self.n * t - i

    def marginal(self, t: Array) -> tuple[Array, Array]:
        log_alpha, variance, log_a, spread, part = self._at(at_least_float32(t))
        still = log_a == 0
        grown = jnp.where(
            still, part, jnp.expm1(2 * part * log_a) / jnp.expm1(jnp.where(still, 1.0, 2 * log_a))
        )
        return jnp.exp(log_alpha + part * log_a), jnp.sqrt(
            jnp.exp(2 * part * log_a) * variance + grown * spread
        )

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        _, _, log_a, spread, _ = self._at(at_least_float32(t))
        still = log_a == 0
        rate = jnp.where(still, 1.0, 2 * log_a / jnp.expm1(jnp.where(still, 1.0, 2 * log_a)))
        return self.n * log_a, jnp.sqrt(self.n * spread * rate)

    def label(self, t: Array) -> Array:
        """Return the number that networks know a level by, 0 for the cleanest and n - 1 for the noisiest; between levels a fraction."""
        label = jnp.maximum(self.n * at_least_float32(t) - 1, 0.0)
        whole = jnp.round(label)
        return jnp.where(
            jnp.abs(label - whole) < 1e-3, whole, label
        )  # float32 misses a level by 1e-4 of the distance to the next

    def prior_std(self) -> Number:
        return self.sde.prior_std()


def _tables(log_alpha: Array, sigma: Array) -> tuple[Array, Array, Array]:
    log_alpha, variance = jnp.append(0.0, log_alpha), jnp.append(0.0, sigma) ** 2
    return log_alpha, variance, variance[1:] - jnp.exp(2 * jnp.diff(log_alpha)) * variance[:-1]
