r"""The factor w of the loss :math:`w (F - a x_0 - b \epsilon)^2`, one row of `WEIGHTINGS` each.

With :math:`\Delta = b \alpha - a \sigma` the error of the noise is :math:`|\alpha/\Delta|` times
that of F, so that :math:`w = (\alpha/\Delta)^2` is DDPM's loss and
:math:`w = (g/\sigma)^2 (\alpha/\Delta)^2` the likelihood weighting. As
:math:`g^2 / \sigma^2 = 2 (\sigma'/\sigma - \alpha'/\alpha)`, the latter is

.. math:: w = \frac{2 \alpha (\sigma' \alpha - \alpha' \sigma)}{\sigma \Delta^2} .

Where signal or noise is 0 (alpha at t = 1, sigma at t = 0), a weight is its limit, and a large
finite number where the limit is infinite: that of "likelihood" and "x0" for a predicted noise or
score without signal, and others without noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from .base import SDE
from .estimate import Number
from .predictions import floored_marginal, rates


def determinant(sde: SDE, t: Array, a: Number, b: Number) -> Array:
    """Return b alpha - a sigma at `t`, elementwise, for the weight of a prediction (a, b)."""
    alpha, sigma = floored_marginal(sde, t)
    return b * alpha - a * sigma


def _prediction(sde: SDE, t: Array, det: Array) -> Number:
    return 1.0


def _noise(sde: SDE, t: Array, det: Array) -> Array:
    alpha, _ = floored_marginal(sde, t)
    return (alpha / det) ** 2


def _x0(sde: SDE, t: Array, det: Array) -> Array:
    _, sigma = floored_marginal(sde, t)
    return (sigma / det) ** 2


def _likelihood(sde: SDE, t: Array, det: Array) -> Array:
    alpha, sigma = floored_marginal(sde, t)
    alpha_rate, sigma_rate = rates(sde, t)
    return 2 * (sigma_rate * alpha - alpha_rate * sigma) / sigma * (alpha / det) / det


def _min_snr(sde: SDE, t: Array, det: Array) -> Array:
    alpha, sigma = floored_marginal(sde, t)
    return jnp.minimum((alpha / sigma) ** 2, 5.0) * (sigma / det) ** 2


def _sigmoid(sde: SDE, t: Array, det: Array) -> Array:
    alpha, sigma = floored_marginal(sde, t)
    log_snr = 2 * (jnp.log(alpha) - jnp.log(sigma))
    return jax.nn.sigmoid(2.0 - log_snr) * (alpha / det) ** 2


# name -> (sde, t, det) -> w, the factor of the squared error of the network output; `det` is that
# of `determinant`.
WEIGHTINGS: dict[str, Callable[[SDE, Array, Array], Number]] = {
    "prediction": _prediction,
    "noise": _noise,  # DDPM; sigma^2-weighted score matching
    "x0": _x0,
    "likelihood": _likelihood,  # Song et al. 2021, arXiv:2101.09258
    "min_snr": _min_snr,  # gamma = 5 (Hang et al. 2023, arXiv:2303.09556, eq. 6)
    # bias 2, made for times uniform in the log-SNR (Kingma and Gao 2023, arXiv:2303.00848, section
    # 4)
    "sigmoid": _sigmoid,
}
