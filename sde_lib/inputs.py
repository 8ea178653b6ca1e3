r"""What a network is fed: the scaled state, and the time as one number a sample, the time signal.

The number is finite at every t in [0, 1]. "edm" feeds :math:`\log(\sigma / \alpha) / 4`, of a
log-SNR :math:`2 \log(\alpha / \sigma)` that is cut to [-20, 40]. At -20 one part in e^10 = 22,000
of the state is signal. A process without any signal at t = 1 (`Rectified`, `Cosine`) looks there as
it does a little earlier, where networks are trained: 4.5e-5 of uniform times on `Rectified` lie
beyond. Kingma and Gao (2023, arXiv:2303.00848) and the variational bound end at such levels too. At
40 noise is 2e-9 of the signal, which no float32 state can show. "sigma" and its kin feed no sigma
below 1e-8, as networks take its logarithm.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from .arrays import expand_time, precision
from .base import SDE
from .estimate import Number
from .predictions import FLOOR

LOG_SNR_MIN, LOG_SNR_MAX = -20.0, 40.0


def _unscaled(sde: SDE, t: Array, sd: ArrayLike) -> Number:
    return 1.0


def _halved(sde: SDE, t: Array, sd: ArrayLike) -> Number:
    return 0.5


def _unit_variance(sde: SDE, t: Array, sd: ArrayLike) -> Array:
    alpha, sigma = sde.marginal(t)
    return 1 / jnp.hypot(sigma, alpha * sd)


def _log_level(sde: SDE, t: Array) -> Array:
    return -jnp.clip(sde.log_snr(t), LOG_SNR_MIN, LOG_SNR_MAX) / 8


def _time(sde: SDE, t: Array) -> Array:
    return 999 * t


def _sigma(sde: SDE, t: Array) -> Array:
    return jnp.maximum(sde.marginal(t)[1], FLOOR)


def _half_sigma(sde: SDE, t: Array) -> Array:
    return _sigma(sde, t) / 2


def _log_half_sigma(sde: SDE, t: Array) -> Array:
    return jnp.log(_half_sigma(sde, t))


def _label(sde: SDE, t: Array) -> Array:
    return sde.label(t)


def _reversed_label(sde: SDE, t: Array) -> Array:
    return jnp.round(sde.label(jnp.ones_like(t)) - sde.label(t))


# name -> (scale of x: (sde, t, sd) -> array like t, time signal: (sde, t) -> array like t).
INPUTS: dict[str, tuple[Callable, Callable]] = {
    "edm": (_unit_variance, _log_level),
    "time": (_unscaled, _time),  # score_sde's VP and sub-VP networks
    "sigma": (_unscaled, _sigma),  # score_sde's VE networks, which take the log themselves
    "unit_sigma": (_halved, _half_sigma),  # the same, trained on images in [0, 1]
    "log_sigma": (_unscaled, _log_half_sigma),  # EDM's retrained VE networks
    "label": (_unscaled, _label),  # DDPM: 0 = cleanest level of a `Discrete` process
    "reversed_label": (_unscaled, _reversed_label),  # SMLD: 0 = noisiest level, whole numbers
    "unit_reversed_label": (_halved, _reversed_label),  # the same, trained on images in [0, 1]
}

# name -> what is added to the scaled x, of networks whose data are not centred at 0.
SHIFTS: dict[str, float] = {"unit_sigma": 0.5, "unit_reversed_label": 0.5}


def network_inputs(
    name: str, sde: SDE, x: Array, t: ArrayLike, sigma_data: ArrayLike
) -> tuple[Array, Array]:
    """Return the scaled state (batch, ...) and the time signal (batch,) that a network is fed.

    Args:
        name: a row of `INPUTS`.
        sde: the process.
        x: the state (batch, ...), floating.
        t: time of shape () or (batch,).
        sigma_data: standard deviation of the data.
    """
    time = expand_time(t, x)
    scale, signal = INPUTS[name]
    scaled = scale(sde, time, sigma_data) * x + SHIFTS.get(name, 0.0)
    time_signal = signal(sde, jnp.broadcast_to(time.reshape(-1), x.shape[:1]))
    return scaled.astype(x.dtype), time_signal.astype(precision(x))
