r"""Score matching in continuous time (times: `times.py`).

For x0 from the data, t from a time distribution and x_t = alpha x0 + sigma noise, the denoising loss of one sample is

.. math:: w_t \, \tfrac1d \| F(x_t, t) - (a_t x_0 + b_t \epsilon) \|^2,

F the network output, (a, b) the prediction and w the weighting of `denoiser.py` (Song et al. 2021, arXiv:2011.13456, eq. 7). It is flow
matching for prediction "velocity" and weighting "prediction" on `Rectified`, DDPM's and SMLD's loss for weighting "noise" on `Discrete`.
The sliced loss needs no noise to compare with: by integration by parts, with the noise estimate and random directions v,

.. math:: E \| \epsilon - \hat\epsilon \|^2 = E \big[ \| \hat\epsilon \|^2 - 2 \sigma\, v^T \partial_x \hat\epsilon\, v \big] + d .
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .base import expand
from .denoiser import WEIGHTINGS, Denoiser, check_name


def denoising_loss(
    key: Key[Array, ""],
    denoiser: Denoiser,
    x0: Float[Array, "batch ..."],
    t: Float[Array, " batch"],
    cond: Any = None,
    weighting: str = "prediction",
) -> Float[Array, " batch"]:
    """Return the denoising score-matching loss of each sample, a mean over its dimensions.

    A constant weight 1 under prediction "edm" is EDM's loss; "noise" is DDPM's and score_sde's, "likelihood" that of arXiv:2101.09258.
    """
    check_name("weighting", weighting, WEIGHTINGS)
    sde, time = denoiser.sde, expand(t, x0)
    x, noise = sde.perturb(key, x0, t)
    (alpha, sigma), (a, b) = sde.marginal(time), denoiser.combination(time)
    weight = WEIGHTINGS[weighting](sde, time, b * alpha - a * sigma)
    error = denoiser.output(x, t, cond) - (a * x0 + b * noise)
    return jnp.mean(weight * error**2, axis=tuple(range(1, x0.ndim)))


def sliced_loss(
    key: Key[Array, ""],
    denoiser: Denoiser,
    x0: Float[Array, "batch ..."],
    t: Float[Array, " batch"],
    cond: Any = None,
    weighting: str = "noise",
) -> Float[Array, " batch"]:
    """Return the sliced score-matching loss of each sample (Song et al. 2019, arXiv:1905.07088, eq. 8), a mean over its dimensions.

    Its expectation is that of `denoising_loss` but for a constant that no network changes: its weight at noise level 1. It is noisier, and
    takes a derivative in one Rademacher direction, about twice the price.
    """
    check_name("weighting", weighting, WEIGHTINGS)
    noise_key, slice_key = jax.random.split(key)
    sde, time = denoiser.sde, expand(t, x0)
    x, _ = sde.perturb(noise_key, x0, t)
    (alpha, sigma), (a, b) = sde.marginal(time), denoiser.combination(time)
    det = b * alpha - a * sigma
    weight = WEIGHTINGS[weighting](sde, time, det) * (det / alpha) ** 2
    v = jax.random.rademacher(slice_key, x.shape, x.dtype)
    noise, slope = jax.jvp(lambda x: denoiser(x, t, cond).noise, (x,), (v,))
    return jnp.mean(weight * (noise**2 - 2 * sigma * v * slope), axis=tuple(range(1, x0.ndim)))


# name -> loss, for configurations.
OBJECTIVES: dict[str, Callable] = {"denoising": denoising_loss, "sliced": sliced_loss}
