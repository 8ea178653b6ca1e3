r"""The probability flow with adaptive steps, and the log-likelihood it gives (Song et al. 2021, arXiv:2011.13456, eq. 13 and 39).

For every SDE the flow is integrated where it is smooth: over the angle :math:`\theta = \arctan(\sigma / \alpha)`, in the normalised
state :math:`u = x / h` with :math:`h = \sqrt{\alpha^2 + \sigma^2}` (Salimans and Ho 2022, arXiv:2202.00512, appendix D),

.. math:: du/d\theta = \cos\theta\,\hat\epsilon - \sin\theta\,\hat x_0 .

It owes nothing to how fast the SDE runs through its noise levels. The likelihood goes from data to noise and adds up the divergence,

.. math:: \log p_{t_{\min}}(x) = \log \pi(x_1) + D \log \frac{h_1}{h_{t_{\min}}} + \int \nabla_u \cdot \frac{du}{d\theta}\,d\theta,

:math:`\pi` being the prior. diffrax always runs in increasing pseudo-time. Each sample has step sizes of its own, so it does not depend on
its batch; the whole batch is evaluated until its slowest member is done, which is what `nfe` counts.
"""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from sde_lib import SDE

from .base import Counted, Denoise, Samples, sample_keys


class LogLikelihood(NamedTuple):
    """Log-densities of the model at t_min, in nats."""

    log_prob: Float[Array, " batch"]
    std_error: Float[Array, " batch"]  # of the trace estimate over its probes; 0 for the exact trace, NaN for a single probe
    latent: Array  # (batch, ...) the end point at t = 1
    nfe: Int[Array, ""]


@eqx.filter_jit
def probability_flow(
    denoise: Denoise,
    sde: SDE,
    x: Float[Array, "batch ..."],
    *,
    start: float = 1.0,
    end: float = 1e-3,
    cond: Any = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    max_steps: int = 4096,
    denoise_last: bool | None = None,
) -> Samples:
    """Carry `x` along the probability flow from time `start` to time `end`, in either direction.

    Args:
        denoise_last: return the expected clean data at `end`, with one more evaluation; the default does so when going to data.

    Returns:
        Samples; a sample that did not arrive within `max_steps` steps is NaN.
    """
    if not (sde.t_min <= start <= 1 and sde.t_min <= end <= 1):
        raise ValueError(f"the flow runs between t_min = {sde.t_min} and 1, got start = {start} and end = {end}")
    denoise = Counted(denoise)
    (first, scale), (last, end_scale) = _angle(sde, start), _angle(sde, end)

    def field(theta, u, cond):
        return _velocity(denoise, sde, theta, u, cond)

    u, nfe = _solve(field, first, last, x / scale, cond, rtol, atol, max_steps)
    x = u * end_scale
    if end < start if denoise_last is None else denoise_last:
        x, nfe = denoise(x, jnp.asarray(end, x.dtype), cond).x0, nfe + 1
    return Samples(x, nfe, None)


@eqx.filter_jit
def log_likelihood(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    x: Float[Array, "batch ..."],
    *,
    probes: int | None = None,
    cond: Any = None,
    index: Int[Array, " batch"] | None = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    max_steps: int = 4096,
) -> LogLikelihood:
    """Return the log-likelihood of data `x` (batch, ...) under the model, that is of x at t_min pulled back from the prior.

    Args:
        key: draws the Rademacher probes, fixed along the flow, of each sample from its `index`; the exact trace ignores it.
        probes: number of Hutchinson probes (Hutchinson 1989; arXiv:1810.01367); None computes the exact trace, at as many
            derivatives as x has dimensions.

    Returns:
        LogLikelihood; a sample that did not arrive within `max_steps` steps is NaN.
    """
    if probes is not None and probes < 1:
        raise ValueError(f"need at least one probe, or None for the exact trace, got {probes}")
    shape, size = x.shape[1:], x[0].size
    if probes is None:
        directions = jnp.broadcast_to(jnp.eye(size, dtype=x.dtype).reshape(size, *shape), (len(x), size, *shape))
    else:
        keys = sample_keys(key, jnp.arange(len(x)) if index is None else index)
        directions = jax.vmap(lambda k: jax.random.rademacher(k, (probes, *shape), x.dtype))(keys)

    def field(theta, state, args):
        (u, _), (cond, directions) = state, args
        velocity, jvp = jax.linearize(lambda u: _velocity(denoise, sde, theta, u, cond), u)
        products = jax.vmap(lambda direction: jnp.sum(direction * jvp(direction[None])[0]))(directions[0])
        return velocity, (jnp.sum(products, keepdims=True) if probes is None else products)[None]

    (first, scale), (last, end_scale) = _angle(sde, sde.t_min), _angle(sde, 1.0)
    start = (x / scale, jnp.zeros((len(x), probes or 1), x.dtype))
    (u, traces), nfe = _solve(field, first, last, start, (cond, directions), rtol, atol, max_steps)
    latent = u * end_scale
    std_error = jnp.zeros(len(x)) if probes is None else jnp.std(traces, axis=1, ddof=1) / jnp.sqrt(probes)
    log_prob = sde.prior_log_prob(latent) + size * jnp.log(end_scale / scale) + jnp.mean(traces, axis=1)
    return LogLikelihood(log_prob, std_error, latent, nfe)


def _angle(sde, t):
    """Return the angle theta of time t and the scale h."""
    alpha, sigma = sde.marginal(jnp.asarray(t, jnp.result_type(float)))
    return jnp.arctan2(sigma, alpha), jnp.hypot(alpha, sigma)


def _velocity(denoise, sde, theta, u, cond):
    """Return du/dtheta for a batch of one."""
    t = sde.time(-2 * jnp.log(jnp.tan(theta)))
    alpha, sigma = sde.marginal(t)
    estimate = denoise(jnp.hypot(alpha, sigma) * u, t, cond)
    return jnp.cos(theta) * estimate.noise - jnp.sin(theta) * estimate.x0


def _solve(field, first, last, state, args, rtol, atol, max_steps):
    """Integrate `field(theta, state, args)` from angle `first` to `last`, each sample alone; return the end and the slowest's NFE."""
    sign, span = jnp.sign(last - first), jnp.abs(last - first)

    def forward(r, state, args):
        return jax.tree.map(lambda rate: sign * rate, field(first + sign * r, state, args))

    def alone(state, args):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(forward),
            diffrax.Tsit5(),
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

    end, steps = jax.vmap(alone)(state, args)
    return end, 1 + 6 * jnp.max(steps)  # Tsit5: six a step, as the first of its seven is the last of the step before
