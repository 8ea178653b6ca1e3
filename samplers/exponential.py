r"""Coefficients of exponential integrators, evaluated inside `plan`, in float64 for any SDE and any grid.

With the half log-SNR :math:`\lambda = \log(\alpha / \sigma)` and :math:`h = \lambda_s - \lambda_t` the probability flow from t to s is
solved by (Lu et al. 2022, arXiv:2206.00927, eq. 3.4; arXiv:2211.01095, eq. 8)

.. math::
    \frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t} - \int_{\lambda_t}^{\lambda_s} e^{-\lambda}\,\hat\epsilon\,d\lambda, \qquad
    \frac{x_s}{\sigma_s} = \frac{x_t}{\sigma_t} + \int_{\lambda_t}^{\lambda_s} e^{\lambda}\,\hat x_0\,d\lambda .

Written with the fraction :math:`\theta = (\lambda - \lambda_t) / h` of the step, both need the same moments,

.. math::
    I_k(z) = \int_0^1 z e^{-z (1 - \theta)} \theta^k d\theta = z\,k!\,\varphi_{k+1}(-z), \qquad \varphi_k(z) = \int_0^1 e^{(1 - \theta) z}
    \frac{\theta^{k-1}}{(k-1)!} d\theta,

times :math:`\sigma_s` at z = -h for the noise and times :math:`\alpha_s` at z = h for the data; the reverse SDE with noise level
:math:`\eta` has :math:`z = (1 + \eta^2) h` instead. Interpolating through past values at :math:`\theta_j` turns moments into weights.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from sde_lib import SDE


def phi(k: int, z: ArrayLike) -> Array:
    """Return phi_k, k >= 1, elementwise: by its series for small z, else from phi_1 upwards, which loses nothing there."""
    z = jnp.asarray(z, jnp.result_type(float))
    near = jnp.abs(z) < 1
    small, large = (
        jnp.where(near, z, 0.0),
        jnp.where(near, 1.0, z),
    )  # where both branches are finite, so are their gradients
    series = jnp.zeros_like(z)
    for j in reversed(range(18)):  # 1 / 18! is below the rounding of float64
        series = series * small + 1 / math.factorial(j + k)
    value = jnp.expm1(large) / large
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / large
    return jnp.where(near, series, value)


def stretched(h: Array, factor: ArrayLike) -> Array:
    """Return factor * h for a factor above 0 that may be traced: an endless step stays endless, and passes no gradient."""
    finite = jnp.isfinite(h)
    return jnp.where(finite, factor * jnp.where(finite, h, 1.0), h)


def moments(z: Array, count: int) -> Array:
    """Return I_0(z) ... I_{count - 1}(z) on a new last axis. At z = inf, a step to zero noise, all of them are 1."""
    finite = jnp.where(jnp.isinf(z), 1.0, z)
    higher = [
        jnp.where(jnp.isinf(z), 1.0, finite * math.factorial(k) * phi(k + 1, -finite))
        for k in range(1, count)
    ]
    return jnp.stack([-jnp.expm1(-z), *higher], -1)


def weights(nodes: Array, moments: Array, used: Array) -> Array:
    r"""Return :math:`w_j = \sum_k c_k I_k`, the integrals of the Lagrange polynomials :math:`\ell_j(\theta) = \sum_k c_k \theta^k`.

    Args:
        nodes: theta_j of each step (steps, m), the first ones used.
        moments: I_k of each step (steps, m); those of an endless step may be infinite and give weight 0.
        used: how many nodes each step interpolates through (steps,); the weights of the others are 0.
    """
    m, result = nodes.shape[1], []
    integrals = [jnp.where(jnp.isfinite(moments[:, k]), moments[:, k], 0.0) for k in range(m)]
    for j in range(m):
        c = [jnp.ones_like(nodes[:, 0])] + [jnp.zeros_like(nodes[:, 0])] * (m - 1)
        for k in set(range(m)) - {j}:
            there = (j < used) & (k < used)
            inverse = jnp.where(there, 1 / jnp.where(there, nodes[:, j] - nodes[:, k], 1.0), 0.0)
            constant = jnp.where(there, -inverse * nodes[:, k], 1.0)
            c = [
                constant * low + inverse * lower
                for low, lower in zip(c, [0.0, *c[:-1]], strict=True)
            ]
        result.append(
            jnp.where(j < used, sum(a * b for a, b in zip(c, integrals, strict=True)), 0.0)
        )
    return jnp.stack(result, 1)


def half_log_snr(sde: SDE, ts: Array) -> Array:
    """Return lambda at the times of a grid; infinite where there is no noise, or nothing else."""
    return 0.5 * sde.log_snr(ts)


def past(values: Array, m: int) -> Array:
    """Return the values at the starts of each step and of the m - 1 steps before it, newest first, as (steps, m); the first is repeated."""
    steps = len(values) - 1
    return values[jnp.maximum(jnp.arange(steps)[:, None] - jnp.arange(m)[None], 0)]


def fractions(values: Array, m: int) -> Array:
    """Return where in a step, as a fraction theta of it, its past values lie (steps, m): 0, then negative ones."""
    theta = (past(values, m) - values[:-1, None]) / jnp.diff(values)[:, None]
    return jnp.where(jnp.isfinite(theta), theta, 0.0)


def usable(values: Array, m: int, reach: float = jnp.inf) -> Array:
    """Return how many past values each step may interpolate through (steps,), between 1 and m.

    As many as there are: one more each step from the start, and only one where the coordinate is infinite at either end of the step.
    An interpolation is not stretched over a step more than `reach` times as long as its newest interval.
    """
    steps = jnp.diff(values)
    there = jnp.arange(len(steps)) + jnp.isfinite(values[0])
    ratio = jnp.concatenate(
        [jnp.zeros(1), jnp.where(jnp.isfinite(steps[:-1]), steps[1:] / steps[:-1], 0.0)]
    )
    return jnp.where(jnp.isfinite(steps) & (ratio <= reach), jnp.clip(there, 1, m), 1)
