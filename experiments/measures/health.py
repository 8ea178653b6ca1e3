r"""Is a denoiser what it should be? Numbers that are known for a perfect one.

They are taken at each noise level, without knowing the data's density.

With :math:`\hat\epsilon(x, t)` the noise expected in x and J its Jacobian in x, a posterior mean
has

- the smallest loss :math:`E \|\epsilon - \hat\epsilon\|^2`, in any case no larger than the best
  *linear* denoiser's, which is known;
- slope 1 in the regression of the noise on its estimate,
  :math:`E\,\epsilon \cdot \hat\epsilon / E \|\hat\epsilon\|^2`;
- the error that it predicts itself, :math:`\operatorname{tr} \operatorname{Cov}(\epsilon \mid x) =
  d - \sigma \operatorname{tr} J`;
- a symmetric J, for the score is a gradient;
- a score that obeys the Fokker-Planck equation (Lai et al. 2023, arXiv:2210.04296, eq. 7),
  :math:`\partial_t s = \nabla \big[\tfrac12 g^2 (\nabla \cdot s + \|s\|^2) - f\,x \cdot s\big]`.

Traces are estimated with Rademacher probes. A squared residual is the product of two estimates with
different probes, so that their noise does not count as residual.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE, Estimate, Gaussian, expand

from .. import data

MOST_WITH_COVARIANCES = 4096  # dimensions
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
    """The best linear denoiser of each coordinate by itself.

    It stands in for the Gaussian where the covariances of the data would fill the memory.
    """

    mean: Array  # (d,)
    variance: Array  # (d,)

    def estimate(self, sde: SDE, x: Array, t: Array) -> Estimate:
        """Return data and noise expected in `x` (batch, d) at times `t` (batch,)."""
        alpha, sigma = sde.marginal(expand(t, x))
        noise = sigma * (x - alpha * self.mean[None]) / (alpha**2 * self.variance[None] + sigma**2)
        return Estimate.from_noise(x, alpha, sigma, noise)


def linear_denoiser(dataset: data.DataSet, split: str) -> Gaussian | Coordinates:
    """Return the Gaussian with the moments of a split.

    Above 4096 dimensions it has no covariances.
    """
    full = int(np.prod(dataset.shape)) <= MOST_WITH_COVARIANCES
    moments = data.moments(dataset, split, full=full)
    mean = moments.mean.ravel()
    if moments.covariance is None:
        variance = moments.variance.ravel()
        missing = max(0.0, LEAST_VARIANCE - float(variance.min()))
        return Coordinates(mean=jnp.asarray(mean), variance=jnp.asarray(variance + missing))
    return Gaussian(mean, moments.covariance + LEAST_VARIANCE * np.eye(len(mean)))


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
    times = jnp.full(len(x0), t)
    axes = tuple(range(1, x0.ndim))
    x, noise = sde.perturb(noise_key, x0, times)
    sigma = sde.marginal(times)[1]
    estimate, jacobian = jax.linearize(lambda x: denoise(x, times, cond).noise, x)
    v = jax.random.rademacher(v_key, x.shape, x.dtype)
    w = jax.random.rademacher(w_key, x.shape, x.dtype)
    jv = jacobian(v)
    jw = jacobian(w)
    w_jv = jnp.sum(w * jv, axes)
    v_jw = jnp.sum(v * jw, axes)
    trace = (jnp.sum(v * jv, axes) + jnp.sum(w * jw, axes)) / 2
    best = linear.estimate(sde, x.reshape(len(x), -1), times).noise.reshape(x.shape)
    return Level(
        loss=jnp.mean((noise - estimate) ** 2, axes),
        linear=jnp.mean((noise - best) ** 2, axes),
        cross=jnp.mean(noise * estimate, axes),
        square=jnp.mean(estimate**2, axes),
        predicted=1 - sigma * trace / x0[0].size,
        twist=(w_jv - v_jw) ** 2,
        bend=w_jv**2 + v_jw**2,
        raw=jnp.mean((noise - raw(x, times, cond).noise) ** 2, axes),
    )


def fokker_planck(
    denoise: Any, sde: SDE, key: Array, x0: Array, cond: Any, t: Array
) -> tuple[Array, Array]:
    """Return the squared residual of the Fokker-Planck equation of the score, and its scale.

    The scale is |d_t s|^2; both are means over `x0` (batch, ...).

    Both are projected on one random direction u an example, so that forward derivatives are enough.
    """
    size = x0[0].size
    axes = tuple(range(1, x0.ndim))
    noise_key, direction_key, probe_key = jax.random.split(key, 3)
    times = jnp.full(len(x0), t)
    x, _ = sde.perturb(noise_key, x0, times)
    f, g = sde.coefficients(times)
    u = jax.random.rademacher(direction_key, x.shape, x.dtype)
    if size <= 8:  # the exact trace, over the unit vectors
        unit_vectors = jnp.eye(size).reshape(1, size, 1, *x.shape[1:])
        probes = jnp.broadcast_to(unit_vectors, (1, size, *x.shape))
    else:  # two estimates of the trace, with a probe each
        probes = jax.random.rademacher(probe_key, (2, 1, *x.shape), x.dtype)

    def score(x, times):
        return -denoise(x, times, cond).noise / sde.marginal(expand(times, x))[1]

    def potential(x, vectors):
        """Return the bracket of the equation, its trace estimated with `vectors`."""

        def along(v):
            _, derivative = jax.jvp(lambda x: score(x, times), (x,), (v,))
            return jnp.sum(v * derivative, axes)

        s = score(x, times)
        trace = jnp.sum(jax.vmap(along)(vectors), 0)
        return 0.5 * g**2 * (trace + jnp.sum(s**2, axes)) - f * jnp.sum(x * s, axes)

    def slope(vectors):
        return jax.jvp(lambda x: potential(x, vectors), (x,), (u,))[1]

    _, time_derivative = jax.jvp(lambda times: score(x, times), (times,), (jnp.ones_like(times),))
    rate = jnp.sum(u * time_derivative, axes)
    slopes = jax.lax.map(slope, probes)
    return jnp.mean((rate - slopes[0]) * (rate - slopes[-1])), jnp.mean(rate**2)


def ratio(top: np.ndarray, bottom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean(top) / mean(bottom) over the last axis and its standard error."""
    value = top.mean(-1) / bottom.mean(-1)
    deviation = np.std(top - value[..., None] * bottom, axis=-1, ddof=1)
    error = deviation / (np.abs(bottom.mean(-1)) * np.sqrt(top.shape[-1]))
    return value, error
