r"""Coefficients of exponential integrators for any SDE and any grid.

`plan` evaluates them in float64. With the half log-SNR :math:`\lambda = \log(\alpha / \sigma)` and
:math:`h = \lambda_s - \lambda_t` the probability flow from t to s is solved by (Lu et al. 2022,
arXiv:2206.00927, eq. 3.4; arXiv:2211.01095, eq. 8)

.. math::
    \frac{x_s}{\alpha_s} &= \frac{x_t}{\alpha_t}
    - \int_{\lambda_t}^{\lambda_s} e^{-\lambda}\,\hat\epsilon\,d\lambda, \\
    \frac{x_s}{\sigma_s} &= \frac{x_t}{\sigma_t}
    + \int_{\lambda_t}^{\lambda_s} e^{\lambda}\,\hat x_0\,d\lambda .

Written with the fraction :math:`\theta = (\lambda - \lambda_t) / h` of the step, both need the same
moments,

.. math::
    I_k(z) = \int_0^1 z e^{-z (1 - \theta)} \theta^k d\theta = z\,k!\,\varphi_{k+1}(-z), \qquad
    \varphi_k(z) = \int_0^1 e^{(1 - \theta) z} \frac{\theta^{k-1}}{(k-1)!} d\theta,

times :math:`\sigma_s` at z = -h for the noise and times :math:`\alpha_s` at z = h for the data. The
reverse SDE with noise level :math:`\eta` has :math:`z = (1 + \eta^2) h` instead. Interpolation
through past values at the nodes :math:`\theta_j` turns moments into weights.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from sde_lib import SDE

SERIES_TERMS = 18  # 1 / 18! is below the rounding of float64


def phi(k: int, z: ArrayLike) -> Array:
    """Return phi_k, k >= 1, elementwise.

    Small z take the series, the others the recursion from phi_1 upwards, which loses no digits
    there.
    """
    z = jnp.asarray(z, jnp.result_type(float))
    near = jnp.abs(z) < 1
    # Where both branches are finite, so are their gradients.
    small = jnp.where(near, z, 0.0)
    large = jnp.where(near, 1.0, z)
    series = jnp.zeros_like(z)
    for j in reversed(range(SERIES_TERMS)):
        series = series * small + 1 / math.factorial(j + k)
    value = jnp.expm1(large) / large
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / large
    return jnp.where(near, series, value)


def stretched(h: Array, factor: ArrayLike) -> Array:
    """Return `factor` times the step lengths `h`, elementwise.

    The factor is above 0 and may be traced. An endless step stays endless and passes no gradient.
    """
    finite = jnp.isfinite(h)
    return jnp.where(finite, factor * jnp.where(finite, h, 1.0), h)


def moments(z: Array, count: int) -> Array:
    """Return I_0(z) ... I_{count - 1}(z) on a new last axis.

    At z = inf, in a step to zero noise, all of them are 1.
    """
    finite = jnp.where(jnp.isinf(z), 1.0, z)
    higher = [
        jnp.where(jnp.isinf(z), 1.0, finite * math.factorial(k) * phi(k + 1, -finite))
        for k in range(1, count)
    ]
    return jnp.stack([-jnp.expm1(-z), *higher], -1)


def interpolation_weights(nodes: Array, moments: Array, used: Array) -> Array:
    r"""Return :math:`w_j = \sum_k c_k I_k`, one weight for each node (steps, m).

    They are the integrals of the Lagrange polynomials :math:`\ell_j(\theta) = \sum_k c_k \theta^k`.

    Args:
        nodes: theta_j of each step (steps, m), the first ones used.
        moments: I_k of each step (steps, m); those of an endless step may be infinite and count as
            0.
        used: how many nodes each step interpolates through (steps,); the others have weight 0.
    """
    m = nodes.shape[1]
    integrals = [jnp.where(jnp.isfinite(moments[:, k]), moments[:, k], 0.0) for k in range(m)]
    weights = []
    for j in range(m):
        polynomial = _lagrange(nodes, j, used)
        integral = sum(a * b for a, b in zip(polynomial, integrals, strict=True))
        weights.append(jnp.where(j < used, integral, 0.0))
    return jnp.stack(weights, 1)


def _lagrange(nodes: Array, j: int, used: Array) -> list[Array]:
    """Return the coefficients c_0 ... c_{m - 1}, each (steps,), of node j's Lagrange polynomial."""
    m = nodes.shape[1]
    coefficients = [jnp.ones_like(nodes[:, 0])] + [jnp.zeros_like(nodes[:, 0])] * (m - 1)
    for k in set(range(m)) - {j}:
        both_used = (j < used) & (k < used)
        distance = jnp.where(both_used, nodes[:, j] - nodes[:, k], 1.0)
        slope = jnp.where(both_used, 1 / distance, 0.0)
        constant = jnp.where(both_used, -slope * nodes[:, k], 1.0)
        shifted = [0.0, *coefficients[:-1]]  # times theta
        coefficients = [
            constant * same + slope * lower
            for same, lower in zip(coefficients, shifted, strict=True)
        ]
    return coefficients


def half_log_snr(sde: SDE, ts: Array) -> Array:
    """Return lambda at the times of a grid; it is infinite where noise or signal is 0."""
    return 0.5 * sde.log_snr(ts)


def past_values(values: Array, m: int) -> Array:
    """Return the values at the starts of each step and of the m - 1 steps before it (steps, m).

    The newest value comes first. Before the first step its value is repeated.
    """
    steps = len(values) - 1
    return values[jnp.maximum(jnp.arange(steps)[:, None] - jnp.arange(m)[None], 0)]


def past_nodes(values: Array, m: int) -> Array:
    """Return the nodes theta of past values (steps, m): 0 for the newest, then negative fractions.

    Args:
        values: the coordinate at the times of the grid (steps + 1,).
        m: how many nodes a step has.
    """
    theta = (past_values(values, m) - values[:-1, None]) / jnp.diff(values)[:, None]
    return jnp.where(jnp.isfinite(theta), theta, 0.0)


def usable_nodes(values: Array, m: int) -> Array:
    """Return how many past values each step may interpolate through (steps,), between 1 and m.

    A step uses as many as there are, one more each step from the start. It uses only one where the
    coordinate is infinite at either of its ends.

    Args:
        values: the coordinate at the times of the grid (steps + 1,).
        m: the largest number.
    """
    steps = jnp.diff(values)
    available = jnp.arange(len(steps)) + jnp.isfinite(values[0])
    return jnp.where(jnp.isfinite(steps), jnp.clip(available, 1, m), 1)
