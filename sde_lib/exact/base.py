r"""A data distribution whose marginals are known in closed form.

These are the densities :math:`p_t` of :math:`x_t = \alpha x_0 + \sigma \epsilon`. With Tweedie's
formula a perfect denoiser follows from them,

.. math:: E[\epsilon \mid x] = -\sigma \nabla \log p_t(x), \qquad
    E[x_0 \mid x] = (x + \sigma^2 \nabla \log p_t(x)) / \alpha ,

but in float32 only the first is computed so: the second loses all digits at large :math:`\sigma`,
hence each distribution brings its own. Parameters are stored in float64 NumPy and used in the
precision of x, a state of shape (batch, d).
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from ..arrays import as_state, at_least_float32, check_time, expand
from ..base import SDE, check_process
from ..checks import known
from ..estimate import Estimate
from ..evaluations import record_evaluations


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d)."""

    mean: Array
    cov: Array


class Marginal(NamedTuple):
    """What is known of p_t at each x."""

    log_prob: Array  # (batch,), in nats
    score: Array  # (batch, d), the gradient of log_prob
    x0: Array  # (batch, d), E[x_0 | x]
    divergence: Array  # (batch,), of the score


def compiled(method: Callable) -> Callable:
    """Compile a method (self, sde, x, times) in the precision of x, float32 at least.

    Times become arrays: a Python number would be part of the program.
    """
    jitted = eqx.filter_jit(method)

    @functools.wraps(method)
    def call(self, sde, x, *times, **named):
        x = at_least_float32(as_state(x))
        times, named = jax.tree.map(check_time, (times, named))
        self, times, named = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), (self, times, named))
        return jitted(self, sde, x, *times, **named)

    return call


class DataDistribution(eqx.Module):
    """A distribution of data vectors (d,).

    A new one writes `sample`, `data_moments` and `marginal`. The methods that pick something out of
    `marginal` are compiled, so that nothing else is computed.
    """

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """Draw `n` data points (n, d)."""

    @abc.abstractmethod
    def data_moments(self) -> Moments:
        """Return the mean (d,) and the covariance (d, d) of the data."""

    @abc.abstractmethod
    def marginal(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Marginal:
        """Return everything known of p_t at the states.

        Args:
            sde: the process.
            x: states (batch, d).
            t: time of shape () or (batch,).
        """

    @compiled
    def log_prob(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike
    ) -> Float[Array, " batch"]:
        """Return log p_t(x) in nats, (batch,), for a time of shape () or (batch,).

        At t = 0, if sigma is 0 there, that is the data's own density, NaN if they have none.
        """
        return self.marginal(sde, x, t).log_prob

    @compiled
    def score(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Float[Array, "batch d"]:
        """Return the gradient of log p_t at `x`, (batch, d), for a time of shape () or (batch,)."""
        return self.marginal(sde, x, t).score

    @compiled
    def divergence(
        self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike
    ) -> Float[Array, " batch"]:
        """Return the divergence of the score at `x`, (batch,), for a time of shape () or (batch,).

        It is the trace of the Hessian of log p_t.
        """
        return self.marginal(sde, x, t).divergence

    @compiled
    def estimate(self, sde: SDE, x: Shaped[Array, "batch d"], t: ArrayLike) -> Estimate:
        """Return the posterior means of clean data and noise given `x`.

        Where sigma is 0, x is the clean data.

        Args:
            sde: the process.
            x: states (batch, d).
            t: time of shape () or (batch,).
        """
        return estimate_of(self.marginal(sde, x, t), sde, x, t)

    def denoiser(self, sde: SDE) -> "ExactDenoiser":
        """Return the perfect denoiser, for use wherever a trained one is."""
        return ExactDenoiser(self, sde)

    def moments(self, sde: SDE, t: ArrayLike) -> Moments:
        """Return the mean (d,) and the covariance (d, d) of p_t at one time, of shape ().

        Raises:
            ValueError: the time has another shape.
        """
        if jnp.ndim(t):
            raise ValueError(f"need one time, of shape (), got shape {jnp.shape(t)}; map over them")
        mean, cov = self.data_moments()
        alpha, sigma = sde.marginal(jnp.asarray(check_time(t), mean.dtype))
        return Moments(mean=alpha * mean, cov=alpha**2 * cov + sigma**2 * jnp.eye(len(mean)))


def estimate_of(marginal: Marginal, sde: SDE, x: Array, t: ArrayLike) -> Estimate:
    """Return the posterior means given `x` (batch, d) at `t`, made of what is known of p_t there.

    Where sigma is 0, x is the clean data.
    """
    alpha, sigma = sde.marginal(expand(t, x))
    return Estimate(
        x0=jnp.where(sigma > 0, marginal.x0, x / jnp.where(sigma > 0, 1.0, alpha)),
        noise=jnp.where(sigma > 0, -sigma * marginal.score, 0.0),
    )


class ExactDenoiser(eqx.Module):
    """A denoise function that knows the data distribution; see `Denoise`.

    A call counts as one network evaluation.

    Attributes:
        data: the distribution.
        sde: the process.
    """

    data: DataDistribution
    sde: SDE

    def __check_init__(self):
        check_process("an exact denoiser", self.sde)

    @property
    def sigma_data(self) -> Array:
        """The standard deviation of the data, (), a root mean square over the coordinates.

        It is 1 where the data are a single point.
        """
        variance = jnp.mean(jnp.diagonal(self.data.data_moments().cov))
        return jnp.where(variance > 0, jnp.sqrt(variance), 1.0)

    def __call__(self, x: Shaped[Array, "batch d"], t: ArrayLike, cond: Any = None) -> Estimate:
        """Return the exact estimate at `x` and time `t`, of shape () or (batch,); `cond` is
        ignored.
        """
        record_evaluations()
        x = as_state(x)
        return jax.tree.map(lambda a: a.astype(x.dtype), self.data.estimate(self.sde, x, t))


def check_state(x: Array, d: int) -> Array:
    """Return `x` (batch, d) in float32 at least.

    Raises:
        ValueError: it has another shape.
    """
    x = at_least_float32(as_state(x))
    if x.shape[1:] != (d,):
        raise ValueError(
            f"need x of shape (batch, {d}), got {x.shape}; flatten each sample into a row"
        )
    return x


def finite(name: str, value: npt.ArrayLike | float, axes: int) -> np.ndarray:
    """Return `value` as a float64 array.

    Raises:
        ValueError: it is traced, empty, not finite, or has another number of axes than `axes`.
    """
    if not known(value):
        raise ValueError(
            f"{name} must be known, not traced: "
            "build the distribution outside of the transformed function"
        )
    array = np.asarray(value, np.float64)
    if array.ndim != axes or not array.size or not np.all(np.isfinite(array)):
        kind = "finite" if np.all(np.isfinite(array)) else "not finite"
        raise ValueError(
            f"need {name} finite, non-empty and with {axes} axes, got shape {array.shape}, {kind}: "
            f"{np.array2string(array, threshold=8, edgeitems=2)}"
        )
    return array
