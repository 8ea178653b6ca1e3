r"""The forward process: how data turns into noise.

Time runs over :math:`t \in [0, 1]`, 0 = data, 1 = noise. Given clean data :math:`x_0`, the noisy state is Gaussian,

.. math:: p(x_t \mid x_0) = \mathcal{N}(\alpha_t x_0, \sigma_t^2 I), \qquad x_t = \alpha_t x_0 + \sigma_t \epsilon,

which is the marginal of the linear SDE :math:`dx = f_t x\,dt + g_t\,dw` with

.. math:: f_t = \alpha_t' / \alpha_t, \qquad g_t^2 = (\sigma_t^2)' - 2 f_t \sigma_t^2 .

Symbols in code: ``alpha, sigma`` for the marginal, ``f, g`` for the coefficients, a trailing ``_rate`` for d/dt.
Sampling goes from t to s with s <= t. The state is one array of shape (batch, ...); times have shape () or (batch,).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from .estimate import Estimate, Number


def expand(t: ArrayLike, like: Array) -> Array:
    """Append axes to a time of shape () or (batch,) so that it broadcasts against `like` (batch, ...).

    Raises:
        ValueError: `t` has another shape.
    """
    t = jnp.asarray(t, like.dtype)
    if t.shape not in ((), like.shape[:1]):
        raise ValueError(
            f"a time has shape () or (batch,) = {like.shape[:1]}, got {t.shape}; pass one time, or one per sample"
        )
    return t.reshape(t.shape + (1,) * (like.ndim - 1)) if t.ndim else t


def in_float64(fn: Callable, *args: Any) -> Any:
    """Evaluate `fn(*args)` in float64 NumPy while tracing if nothing in it is traced; otherwise just trace it.

    Solver coefficients lose 3 % in float32 at a thousand steps; a grid or schedule that is being learned must stay traced.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((fn, args))):
        return fn(*args)
    with (
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        np.errstate(all="ignore"),
    ):  # infinite log-SNRs are for callers to refuse
        wide = jax.tree.map(
            lambda a: np.asarray(a, np.float64) if eqx.is_inexact_array_like(a) else a, args
        )
        return jax.tree.map(np.asarray, fn(*wide))


def check_increasing(**values: Any) -> None:
    """Raise a ValueError unless the named values grow strictly from above 0; traced values pass."""
    numbers = tuple(values.values())
    if any(isinstance(v, Tracer) for v in numbers):
        return
    if not all(low < high for low, high in zip((0, *numbers), numbers, strict=False)):
        raise ValueError(
            f"need 0 < {' < '.join(values)}, got {' and '.join(str(v) for v in numbers)}"
        )


class SDE(eqx.Module):
    """A linear Gaussian forward process. A new one only has to write `marginal`, in `jnp` and elementwise in t.

    Attributes:
        t_min: smallest time of training and likelihood; where a sampling grid ends is the grid's business.
    """

    t_min: float = eqx.field(default=1e-5, kw_only=True)

    def __check_init__(self):
        if not isinstance(self.t_min, Tracer) and not 0 <= self.t_min < 1:
            raise ValueError(f"need 0 <= t_min < 1, got {self.t_min}")

    @abc.abstractmethod
    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return `alpha` and `sigma` at `t`, elementwise."""

    def marginal_rate(self, t: Array) -> tuple[Array, Array]:
        """Return the time derivatives of `alpha` and `sigma` at `t`, elementwise."""
        t = jnp.asarray(t, jnp.result_type(float))
        return jax.jvp(self.marginal, (t,), (jnp.ones_like(t),))[1]

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return drift `f` and diffusion `g` at `t`, elementwise (Song et al. 2021, arXiv:2011.13456, eq. 29 inverted)."""
        (alpha, sigma), (alpha_rate, sigma_rate) = self.marginal(t), self.marginal_rate(t)
        f = alpha_rate / alpha
        return f, jnp.sqrt(2 * sigma * (sigma_rate - f * sigma))

    def log_snr(self, t: Array) -> Array:
        """Return the log signal-to-noise ratio 2 log(alpha / sigma), elementwise; it falls with t."""
        alpha, sigma = self.marginal(t)
        return 2 * (jnp.log(alpha) - jnp.log(sigma))

    def time(self, log_snr: Array) -> Array:
        """Return the t in [0, 1] of a log-SNR, elementwise; values out of range give the nearer end.

        It can be differentiated in the log-SNR and in the parameters of the process, as a grid or a schedule that is learned needs.
        """
        return _time(self, jnp.asarray(log_snr, jnp.result_type(float)))

    def inverse(self, log_snr: Array) -> Array:
        """Return the t of a log-SNR, elementwise, for `time`: by bisection, which a closed form may replace. It need pass no gradient."""

        def halve(_, ends):
            low, high = ends
            mid = (low + high) / 2
            cleaner = self.log_snr(mid) > log_snr
            return jnp.where(cleaner, mid, low), jnp.where(cleaner, high, mid)

        low, high = jax.lax.fori_loop(
            0, 64, halve, (jnp.zeros_like(log_snr), jnp.ones_like(log_snr))
        )
        return (low + high) / 2

    def levels(self, n: int) -> tuple[Array, Array]:
        """Return log alpha and sigma (n,) of n noise levels, cleanest first, as a network trained on a table would have them.

        Unless the process has a table of its own: its marginal at the times 1/n, 2/n .. 1.
        """
        alpha, sigma = self.marginal(jnp.arange(1, n + 1) / n)
        return jnp.log(alpha), sigma

    def label(self, t: Array) -> Array:
        """Return the number of the noise level at `t`, elementwise; only `Discrete` has any."""
        name = type(self).__name__
        raise ValueError(
            f"{name} has no numbered noise levels to tell a network; wrap it: Discrete({name}(), n) with the network's n"
        )

    def perturb(
        self, key: Key[Array, ""], x0: Float[Array, "batch ..."], t: ArrayLike
    ) -> tuple[Array, Array]:
        """Draw x_t given x0; return it with the standard normal noise it contains."""
        noise = jax.random.normal(key, x0.shape, x0.dtype)
        alpha, sigma = self.marginal(expand(t, x0))
        return alpha * x0 + sigma * noise, noise

    def prior_std(self) -> Number:
        """Return the standard deviation of the prior at t = 1, sigma(1) unless the process says otherwise."""
        return self.marginal(jnp.ones(()))[1]

    def prior(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Draw from the prior N(0, prior_std^2), from which sampling starts at t = 1."""
        return self.prior_std() * jax.random.normal(key, shape)

    def prior_log_prob(self, x1: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
        """Return the log-density of the prior, in nats, for each sample."""
        std, axes = self.prior_std(), tuple(range(1, x1.ndim))
        return jnp.sum(-0.5 * (x1 / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi), axes)

    def velocity(self, t: ArrayLike, estimate: Estimate) -> Array:
        """Return the probability-flow velocity dx/dt = alpha' x0 + sigma' noise, finite where f and g are not."""
        alpha_rate, sigma_rate = self.marginal_rate(expand(t, estimate.x0))
        return alpha_rate * estimate.x0 + sigma_rate * estimate.noise

    def reverse(
        self, x: Array, t: ArrayLike, score: Array, eta: Number = 1.0
    ) -> tuple[Array, Array]:
        """Return drift and diffusion of the process that shares our marginals, run backwards with noise level `eta`.

        dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dw: eta = 1 is the reverse SDE (arXiv:2011.13456, eq. 6),
        eta = 0 the probability flow (eq. 13). The diffusion has the shape of `t`, broadcastable against `x`.
        """
        f, g = self.coefficients(expand(t, x))
        return f * x - 0.5 * (1 + eta**2) * g**2 * score, eta * g


@eqx.filter_custom_jvp
def _time(sde: SDE, log_snr: Array) -> Array:
    return jnp.clip(sde.inverse(log_snr), 0.0, 1.0)


@_time.def_jvp
def _time_jvp(primals, tangents):
    """Differentiate the equation that t solves, log_snr(t; parameters) = log_snr; beyond the ends t stays where it is."""
    (sde, log_snr), (sde_rate, log_snr_rate) = primals, tangents
    t = _time(sde, log_snr)
    slope = jax.jvp(sde.log_snr, (t,), (jnp.ones_like(t),))[1]
    rate = jnp.zeros_like(t) if log_snr_rate is None else log_snr_rate
    if jax.tree.leaves(sde_rate):
        rate -= eqx.filter_jvp(lambda sde: sde.log_snr(t), (sde,), (sde_rate,))[1]
    inside = (t > 0) & (t < 1)
    return t, jnp.where(inside, rate / jnp.where(inside, slope, 1.0), 0.0)
