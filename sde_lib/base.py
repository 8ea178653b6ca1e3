r"""The forward process: how data turns into noise.

Time runs over :math:`t \in [0, 1]`, 0 = data, 1 = noise. Given clean data :math:`x_0`, the noisy
state is Gaussian,

.. math:: p(x_t \mid x_0) = \mathcal{N}(\alpha_t x_0, \sigma_t^2 I), \qquad
    x_t = \alpha_t x_0 + \sigma_t \epsilon,

which is the marginal of the linear SDE :math:`dx = f_t x\,dt + g_t\,dw` with

.. math:: f_t = \alpha_t' / \alpha_t, \qquad g_t^2 = (\sigma_t^2)' - 2 f_t \sigma_t^2 .

Symbols in code: ``alpha, sigma`` for the marginal, ``f, g`` for the coefficients, a trailing
``_rate`` for d/dt. Sampling goes from t to s with s <= t. The state is one array of shape
(batch, ...); times have shape () or (batch,).
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from .arrays import as_state, at_least_float32, expand_time, precision
from .checks import check_numbers, known
from .estimate import Estimate, Number

# A signal below the rounding of 1 in float64 is none: cos(pi / 2) is 6e-17 there, and -4e-8 in
# float32.
NO_SIGNAL = 2.3e-16
# A log-SNR farther than this from that of the nearest time lies beyond the ends; next to an end
# without signal, float32 times are less than half as far apart.
REACHED = 4.0
BISECTIONS = 64  # of [0, 1]: more than the bits of a float64


class SDE(eqx.Module):
    """A linear Gaussian forward process.

    A new one only has to write `marginal`. Its other methods follow, and a closed form may replace
    any of them. The numbers of a process may be traced.

    Attributes:
        t_min: smallest time of training and likelihood; the grid decides where sampling ends.
    """

    t_min: float = eqx.field(default=1e-5, kw_only=True)

    def __check_init__(self):
        check_numbers("0 <= t_min < 1", lambda t: 0 <= t < 1, self.t_min)

    @abc.abstractmethod
    def marginal(self, t: Array) -> tuple[Array, Array]:
        """Return `alpha` and `sigma` at the times `t` of any shape, elementwise.

        It is written in `jax.numpy`, so that it can be differentiated.
        """

    def marginal_rate(self, t: Array) -> tuple[Array, Array]:
        """Return the derivatives of `alpha` and `sigma` in the time `t`, elementwise."""
        t = at_least_float32(t)
        return jax.jvp(self.marginal, (t,), (jnp.ones_like(t),))[1]

    def coefficients(self, t: Array) -> tuple[Array, Array]:
        """Return the drift `f` and the diffusion `g` at `t`, elementwise.

        They invert eq. 29 of Song et al. 2021, arXiv:2011.13456. Both are infinite where no signal
        is left.
        """
        t = at_least_float32(t)
        alpha, sigma = self.marginal(t)
        alpha_rate, sigma_rate = self.marginal_rate(t)
        f = alpha_rate / jnp.where(alpha > NO_SIGNAL, alpha, 0.0)
        return f, jnp.sqrt(2 * sigma * (sigma_rate - f * sigma))

    def log_snr(self, t: Array) -> Array:
        """Return the log signal-to-noise ratio 2 log(alpha / sigma) at `t`, elementwise.

        It falls with t. It is infinite, with a finite gradient, where there is no noise or no
        signal; rounding may leave an alpha at or below 0 then.
        """
        alpha, sigma = self.marginal(at_least_float32(t))
        return 2 * (_log(alpha, NO_SIGNAL) - _log(sigma, 0.0))

    def time(self, log_snr: Array) -> Array:
        """Return the time in [0, 1] of a log-SNR, elementwise.

        Values out of range give the nearer end. The time can be differentiated in the log-SNR and
        in the parameters of the process, as a grid or a schedule that is learned needs.
        """
        log_snr = at_least_float32(log_snr)
        if known(self, log_snr):
            return jnp.clip(self.inverse(log_snr), 0.0, 1.0)  # no derivative is wanted
        return _time(self, log_snr)

    def noise_level(self, t: Array) -> Array:
        """Return the noise level sigma / alpha at `t`, elementwise.

        It grows with t, and is infinite where no signal is left.
        """
        return jnp.exp(-0.5 * self.log_snr(t))

    def time_of_level(self, level: ArrayLike) -> Array:
        """Return the time in [0, 1] of a noise level sigma / alpha, elementwise.

        Values out of range give the nearer end.
        """
        return self.time(-2 * jnp.log(jnp.asarray(level)))

    def inverse(self, log_snr: Array) -> Array:
        """Return the time of a log-SNR, elementwise, as `time` needs it.

        It is found by bisection. A closed form may replace it; neither has to pass a gradient, nor
        to keep within [0, 1].
        """

        def halve(_, ends):
            low, high = ends
            mid = (low + high) / 2
            cleaner = self.log_snr(mid) > log_snr
            return jnp.where(cleaner, mid, low), jnp.where(cleaner, high, mid)

        ends = jnp.zeros_like(log_snr), jnp.ones_like(log_snr)
        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
        return (low + high) / 2

    def discrete_schedule(self, n: int) -> tuple[Array, Array]:
        """Return the noise schedule of a network that was trained on n discrete noise levels.

        By default it is the marginal at the times 1/n, 2/n ... 1. A process whose papers have
        another schedule replaces it.

        Args:
            n: the number of noise levels.

        Returns:
            log alpha and sigma (n,) of the levels, cleanest first.
        """
        alpha, sigma = self.marginal(jnp.arange(1, n + 1) / n)
        return _log(alpha, NO_SIGNAL), sigma

    def label(self, t: Array) -> Array:
        """Return the number of the noise level at `t`, elementwise; only `Discrete` has any.

        Raises:
            ValueError: the process has no discrete noise levels.
        """
        name = type(self).__name__
        raise ValueError(
            f"{name} has no numbered noise levels to tell a network; "
            f"wrap it: Discrete({name}(), n) with the network's n"
        )

    def perturb(
        self, key: Key[Array, ""], x0: Shaped[Array, "batch ..."], t: ArrayLike
    ) -> tuple[Array, Array]:
        """Draw the noisy state of clean data.

        Args:
            key: draws the noise.
            x0: clean data (batch, ...).
            t: time of shape () or (batch,).

        Returns:
            x_t and the standard normal noise that it contains, each (batch, ...) in the type of
            `x0`.

        Raises:
            ValueError: data or time of an impossible shape or value.
        """
        x0 = as_state(x0)
        noise = jax.random.normal(key, x0.shape, precision(x0)).astype(x0.dtype)
        alpha, sigma = self.marginal(expand_time(t, x0))
        return (alpha * x0 + sigma * noise).astype(x0.dtype), noise

    def prior_std(self) -> Number:
        """Return the standard deviation of the prior at t = 1: sigma(1) unless replaced, ()."""
        return self.marginal(jnp.ones(()))[1]

    def prior(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Draw a state of `shape` from the prior N(0, prior_std^2), at t = 1."""
        return self.prior_std() * jax.random.normal(key, shape)

    def prior_log_prob(self, x1: Shaped[Array, "batch ..."]) -> Float[Array, " batch"]:
        """Return the log-density of the prior in nats, (batch,).

        Args:
            x1: states at t = 1 (batch, ...).
        """
        x1 = as_state(x1)
        std = jnp.asarray(self.prior_std(), precision(x1))
        axes = tuple(range(1, x1.ndim))
        return jnp.sum(-0.5 * (x1 / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi), axes)

    def velocity(self, t: ArrayLike, estimate: Estimate) -> Array:
        """Return the velocity dx/dt = alpha' x0 + sigma' noise of the probability flow.

        It is finite where f and g are not.

        Args:
            t: time of shape () or (batch,).
            estimate: of clean data and noise at the state, each (batch, ...).
        """
        x0 = as_state(estimate.x0)
        alpha_rate, sigma_rate = self.marginal_rate(expand_time(t, x0))
        return (alpha_rate * x0 + sigma_rate * estimate.noise).astype(x0.dtype)

    def reverse(
        self, x: Array, t: ArrayLike, score: Array, eta: Number = 1.0
    ) -> tuple[Array, Array]:
        """Return drift and diffusion of the reverse process with noise level `eta`.

        It is dx = [f x - (1 + eta^2)/2 g^2 score] dt + eta g dw, which has the marginals of the
        forward process: eta = 1 is the reverse SDE (arXiv:2011.13456, eq. 6), eta = 0 the
        probability flow (eq. 13).

        Args:
            x: the state (batch, ...).
            t: time of shape () or (batch,).
            score: the score at `x` (batch, ...).
            eta: the noise level.

        Returns:
            The drift (batch, ...), and the diffusion, which broadcasts against `x`.
        """
        x = as_state(x)
        f, g = self.coefficients(expand_time(t, x))
        drift = f * x - 0.5 * (1 + eta**2) * g**2 * score
        return drift.astype(x.dtype), eta * g


def _log(values: Array, least: float) -> Array:
    """Return the logarithm of `values` above `least`.

    The others give minus infinity with gradient 0.
    """
    nothing = values <= least
    return jnp.where(nothing, -jnp.inf, jnp.log(jnp.where(nothing, 1.0, values)))


def check_process(user: str, sde: Any) -> None:
    """Raise a ValueError that names the remedy unless `sde` is a process."""
    if isinstance(sde, SDE):
        return
    if isinstance(sde, type) and issubclass(sde, SDE):
        raise ValueError(
            f"{user} needs a process, got the class {sde.__name__}; build it: {sde.__name__}()"
        )
    raise ValueError(f"{user} needs a process such as VP(), got {sde!r}")


@eqx.filter_custom_jvp
def _time(sde: SDE, log_snr: Array) -> Array:
    """Return `SDE.time` of a log-SNR."""
    return jnp.clip(sde.inverse(log_snr), 0.0, 1.0)


@_time.def_jvp
def _time_jvp(primals, tangents):
    """Differentiate the equation that t solves, log_snr(t; parameters) = log_snr.

    Beyond the ends t stays where it is.
    """
    (sde, log_snr), (sde_rate, log_snr_rate) = primals, tangents
    t = _time(sde, log_snr)
    reached, slope = jax.jvp(sde.log_snr, (t,), (jnp.ones_like(t),))
    rate = jnp.zeros_like(t) if log_snr_rate is None else log_snr_rate
    if jax.tree.leaves(sde_rate):
        rate -= eqx.filter_jvp(lambda sde: sde.log_snr(t), (sde,), (sde_rate,))[1]
    inside = (t > 0) & (t < 1) & (jnp.abs(reached - log_snr) < REACHED)
    return t, jnp.where(inside, rate / jnp.where(inside, slope, 1.0), 0.0)
