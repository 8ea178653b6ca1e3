r"""Is a denoiser what it should be? Numbers at each noise level that are known for a perfect one, without knowing the data's density.

With :math:`\hat\epsilon(x, t)` the noise expected in x and J its Jacobian in x, a posterior mean has

- the smallest loss :math:`E \|\epsilon - \hat\epsilon\|^2`, in any case no larger than the best *linear* denoiser's, which is known;
- slope 1 in the regression of the noise on its estimate, :math:`E\,\epsilon \cdot \hat\epsilon / E \|\hat\epsilon\|^2`;
- the error that it predicts itself, :math:`\operatorname{tr} \operatorname{Cov}(\epsilon \mid x) = d - \sigma \operatorname{tr} J`;
- a symmetric J, for the score is a gradient;
- a score that obeys the Fokker-Planck equation (Lai et al. 2023, arXiv:2210.04296, eq. 7),
  :math:`\partial_t s = \nabla \big[\tfrac12 g^2 (\nabla \cdot s + \|s\|^2) - f\,x \cdot s\big]`.

Traces are estimated with Rademacher probes. A squared residual is the product of two estimates with different probes, so that their noise
does not count as residual.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE, Estimate, Gaussian, expand

from .. import data

FULL = 4096  # dimensions, the most of which covariances are kept
LEAST_VARIANCE = 1e-6


class Level(NamedTuple):
    """Values at one noise level, one an example, (batch,)."""

    loss: Array  # mean squared error of the noise estimate
    linear: Array  # that of the best linear denoiser
    cross: Array  # noise . estimate / d
    square: Array  # |estimate|^2 / d
    predicted: Array  # the error that the Jacobian predicts
    twist: Array  # (w.Jv - v.Jw)^2
    bend: Array  # (w.Jv)^2 + (v.Jw)^2
    raw: Array  # loss of the raw, not averaged weights


class Coordinates(eqx.Module):
    """The best linear denoiser of each coordinate by itself: data of dimensions whose covariances would fill the memory."""

    mean: Array  # (d,)
    variance: Array  # (d,)

    def estimate(self, sde: SDE, x: Array, t: Array) -> Estimate:
        """Return data and noise expected in `x` (batch, d) at times `t` (batch,)."""
        alpha, sigma = sde.marginal(expand(t, x))
        mean, variance = self.mean[None], self.variance[None]
        noise = sigma * (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        return Estimate.from_noise(x, alpha, sigma, noise)


def linear_denoiser(dataset: data.DataSet, split: str) -> Gaussian | Coordinates:
    """Return the Gaussian with the moments of a split; above 4096 dimensions one without covariances."""
    full = int(np.prod(dataset.shape)) <= FULL
    found = data.moments(dataset, split, full=full)
    mean, variance = found.mean.ravel(), found.variance.ravel()
    least = max(0.0, LEAST_VARIANCE - float(variance.min()))
    if found.covariance is None:
        return Coordinates(mean=jnp.asarray(mean), variance=jnp.asarray(variance + least))
    return Gaussian(mean, found.covariance + LEAST_VARIANCE * np.eye(len(mean)))


def at_level(
    denoise: Any,
    raw: Any,
    sde: SDE,
    linear: Gaussian | Coordinates,
    key: Array,
    x0: Array,
    cond: Any,
    t: Array,
) -> Level:
    """Return what an averaged and a raw denoiser do at time `t` with data `x0` (batch, ...)."""
    noise_key, v_key, w_key = jax.random.split(key, 3)
    times, axes, size = jnp.full(len(x0), t), tuple(range(1, x0.ndim)), x0[0].size
    x, noise = sde.perturb(noise_key, x0, times)
    sigma = sde.marginal(times)[1]
    found, product = jax.linearize(lambda x: denoise(x, times, cond).noise, x)
    v, w = (jax.random.rademacher(k, x.shape, x.dtype) for k in (v_key, w_key))
    jv, jw = product(v), product(w)

    def mean(a):
        return jnp.mean(a, axes)

    one, other = jnp.sum(w * jv, axes), jnp.sum(v * jw, axes)
    best = linear.estimate(sde, x.reshape(len(x), -1), times).noise.reshape(x.shape)
    return Level(
        loss=mean((noise - found) ** 2),
        linear=mean((noise - best) ** 2),
        cross=mean(noise * found),
        square=mean(found**2),
        predicted=1 - sigma * (jnp.sum(v * jv, axes) + jnp.sum(w * jw, axes)) / (2 * size),
        twist=(one - other) ** 2,
        bend=one**2 + other**2,
        raw=mean((noise - raw(x, times, cond).noise) ** 2),
    )


def fokker_planck(
    denoise: Any, sde: SDE, key: Array, x0: Array, cond: Any, t: Array
) -> tuple[Array, Array]:
    """Return the squared residual of the Fokker-Planck equation of the score and its scale |d_t s|^2, means over `x0` (batch, ...).

    Both are projected on one random direction u an example, so that forward derivatives are enough.
    """
    size, axes, keys = x0[0].size, tuple(range(1, x0.ndim)), jax.random.split(key, 3)
    times = jnp.full(len(x0), t)
    x, (f, g) = sde.perturb(keys[0], x0, times)[0], sde.coefficients(times)
    u = jax.random.rademacher(keys[1], x.shape, x.dtype)
    if size <= 8:  # the exact trace, over the unit vectors
        v = jnp.broadcast_to(jnp.eye(size).reshape(1, size, 1, *x.shape[1:]), (1, size, *x.shape))
    else:
        v = jax.random.rademacher(keys[2], (2, 1, *x.shape), x.dtype)

    def score(x, times):
        return -denoise(x, times, cond).noise / sde.marginal(expand(times, x))[1]

    def potential(x, rows):
        s = score(x, times)
        trace = jnp.sum(
            jax.vmap(
                lambda v: jnp.sum(v * jax.jvp(lambda x: score(x, times), (x,), (v,))[1], axes)
            )(rows),
            0,
        )
        return 0.5 * g**2 * (trace + jnp.sum(s**2, axes)) - f * jnp.sum(x * s, axes)

    rate = jnp.sum(
        u * jax.jvp(lambda times: score(x, times), (times,), (jnp.ones_like(times),))[1], axes
    )
    slopes = jax.lax.map(lambda rows: jax.jvp(lambda x: potential(x, rows), (x,), (u,))[1], v)
    return jnp.mean((rate - slopes[0]) * (rate - slopes[-1])), jnp.mean(rate**2)


def ratio(top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean(top) / mean(bottom) over the last axis and its standard error."""
    value = top.mean(-1) / bottom.mean(-1)
    error = np.std(top - value[..., None] * bottom, axis=-1, ddof=1) / (
        np.abs(bottom.mean(-1)) * np.sqrt(top.shape[-1])
    )
    return value, error
