r"""Langevin dynamics at a fixed time, the corrector of score-based samplers (Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5).

.. math:: x \leftarrow x + \varepsilon \nabla \log p_t(x) + \sqrt{2 \varepsilon}\,z, \qquad
    \varepsilon = 2 A^2 \big(\text{snr}\,\|z\| / \|\nabla \log p_t\|\big)^2 \text{ or } 2 A^2 (\text{snr}\,\sigma_t)^2,

with :math:`A = \alpha_t / \alpha_s` of the step at hand: the published factor 1 - beta_i of VP, and 1 for VE.
At a finite step the stationary law is not p_t: on N(0, v) its variance is :math:`v / (1 - \varepsilon / 2 v)`, about 1 + snr^2 times v
where sigma_t^2 is close to v.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from sde_lib import SDE, check_name, repeated

from .base import Sampler, fold, normal


class Row(NamedTuple):
    t: Array
    sigma: Array
    shrink: Array  # A^2


class Corrector(Sampler):
    """A sampler that stays at its time, `n_steps` Langevin steps at each point t of the grid; order counts for nothing here."""

    order = 1
    n_steps: eqx.AbstractVar[int]

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, sde: SDE, ts: Array) -> Row:
        alpha, sigma = sde.marginal(ts)
        return Row(ts[:-1], sigma[:-1], (alpha[:-1] / alpha[1:]) ** 2)

    @abc.abstractmethod
    def size(self, score: Array, z: Array, row: Row) -> Array:
        """Return the step size epsilon, broadcastable against the state."""

    def step(self, keys, denoise, x: Array, row: Row, memory: Any, cond: Any) -> tuple[Array, Any]:
        def once(i, x):
            z = normal(fold(keys, i), x)
            score = -denoise(x, row.t, cond).noise / row.sigma
            epsilon = self.size(score, z, row)
            return x + epsilon * score + jnp.sqrt(2 * epsilon) * z

        with repeated(self.n_steps):
            return (
                once(0, x) if self.n_steps == 1 else jax.lax.fori_loop(0, self.n_steps, once, x)
            ), memory


def _check(snr: Any, n_steps: int) -> None:
    if not isinstance(snr, Tracer) and not 0 < snr < 1:
        raise ValueError(f"need 0 < snr < 1, got {snr}")
    if n_steps < 1:
        raise ValueError(f"need at least one corrector step, got n_steps = {n_steps}")


class Langevin(Corrector):
    """Corrector whose step follows the norms of noise and score; made for images, erratic below some ten dimensions.

    With norms = "sample" each sample has a step of its own; "batch" averages the norms over the batch as the published code does,
    at the price that a sample then depends on its batch.
    """

    snr: float = 0.16
    n_steps: int = 1
    norms: str = "sample"

    def __check_init__(self):
        _check(self.snr, self.n_steps)
        check_name("norms", self.norms, ("sample", "batch"))

    def size(self, score: Array, z: Array, row: Row) -> Array:
        def norm(a):
            per_sample = jnp.sqrt(jnp.sum(a**2, axis=tuple(range(1, a.ndim)), keepdims=True))
            return (
                per_sample
                if self.norms == "sample"
                else jnp.mean(per_sample, axis=0, keepdims=True)
            )

        return 2 * row.shrink * (self.snr * norm(z) / norm(score)) ** 2


class AnnealedLangevin(Corrector):
    """Corrector whose step follows sigma (Song and Ermon 2019, arXiv:1907.05600); good in any dimension."""

    snr: float = 0.16
    n_steps: int = 1

    def __check_init__(self):
        _check(self.snr, self.n_steps)

    def size(self, score: Array, z: Array, row: Row) -> Array:
        return 2 * row.shrink * (self.snr * row.sigma) ** 2
