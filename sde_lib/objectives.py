r"""Score matching in continuous time; `times.py` draws the times.

For x0 from the data, t from a time distribution and x_t = alpha x0 + sigma noise, the denoising
loss of one sample is (Song et al. 2021, arXiv:2011.13456, eq. 7)

.. math:: w_t \, \tfrac1d \| F(x_t, t) - (a_t x_0 + b_t \epsilon) \|^2,

F the network output, (a, b) the prediction and w the weighting of `denoiser.py`. It is flow
matching for prediction "velocity" and weighting "prediction" on `Rectified`, and DDPM's and SMLD's
loss for weighting "noise" on `Discrete`. The sliced loss needs no noise to compare with: by
integration by parts, with the noise estimate and random directions v,

.. math:: E \| \epsilon - \hat\epsilon \|^2
    = E \big[ \| \hat\epsilon \|^2 - 2 \sigma\, v^T \partial_x \hat\epsilon\, v \big] + d .

A network with self-conditioning learns both to answer without a last estimate and, half of the
time, to improve on the one of a first pass, through which no gradient goes (Chen et al. 2022,
arXiv:2208.04202, section 3).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

from .arrays import as_state, expand_time, precision
from .denoiser import Denoiser
from .names import check_name
from .weightings import WEIGHTINGS, determinant


def denoising_loss(
    key: Key[Array, ""],
    denoiser: Denoiser,
    x0: Shaped[Array, "batch ..."],
    t: ArrayLike,
    cond: Any = None,
    weighting: str = "prediction",
    first_pass: ArrayLike = False,
) -> Float[Array, " batch"]:
    """Return the denoising score-matching loss of each sample, a mean over its dimensions.

    A constant weight 1 under prediction "edm" is EDM's loss; weighting "noise" is that of DDPM and
    score_sde, "likelihood" that of arXiv:2101.09258.

    Args:
        key: draws the noise.
        denoiser: the network, its process and its prediction.
        x0: clean data (batch, ...).
        t: times of shape () or (batch,).
        cond: conditions, handed to the network.
        weighting: of the squared error, a row of `WEIGHTINGS`.
        first_pass: with self-conditioning, whether (one truth value) the network is asked twice,
            and given its first answer; else it is given zeros.

    Raises:
        ValueError: an unknown weighting, or data, times or network outputs of an impossible shape.
    """
    check_name("weighting", weighting, WEIGHTINGS)
    x0 = as_state(x0)
    sde = denoiser.sde
    time = expand_time(t, x0)
    x, noise = sde.perturb(key, x0, t)
    a, b = denoiser.combination(time)
    weight = WEIGHTINGS[weighting](sde, time, determinant(sde, time, a, b))
    target = a * x0.astype(precision(x0)) + b * noise.astype(precision(x0))
    memory = _last_estimate(denoiser, x, t, cond, first_pass)
    error = denoiser.output(x, t, cond, memory if denoiser.self_conditioning else None) - target
    return jnp.mean(weight * error**2, axis=tuple(range(1, x0.ndim)))


def sliced_loss(
    key: Key[Array, ""],
    denoiser: Denoiser,
    x0: Shaped[Array, "batch ..."],
    t: ArrayLike,
    cond: Any = None,
    weighting: str = "noise",
    first_pass: ArrayLike = False,
) -> Float[Array, " batch"]:
    """Return the sliced score-matching loss of each sample, a mean over its dimensions.

    It is eq. 8 of Song et al. 2019, arXiv:1905.07088. Its expectation is that of `denoising_loss`
    but for a constant that no network changes: its weight at noise level 1. It is noisier, and
    takes a derivative in one Rademacher direction, about twice the price.

    Args:
        key: draws noise and directions.
        denoiser: the network, its process and its prediction.
        x0: clean data (batch, ...).
        t: times of shape () or (batch,).
        cond: conditions, handed to the network.
        weighting: a row of `WEIGHTINGS`.
        first_pass: with self-conditioning, whether (one truth value) the network is asked twice,
            and given its first answer; else it is given zeros.

    Raises:
        ValueError: an unknown weighting, or data, times or network outputs of an impossible shape.
    """
    check_name("weighting", weighting, WEIGHTINGS)
    x0 = as_state(x0)
    noise_key, slice_key = jax.random.split(key)
    sde = denoiser.sde
    time = expand_time(t, x0)
    x, _ = sde.perturb(noise_key, x0, t)
    _, sigma = sde.marginal(time)
    det = determinant(sde, time, *denoiser.combination(time))
    weight = WEIGHTINGS[weighting](sde, time, det) / WEIGHTINGS["noise"](sde, time, det)
    v = jax.random.rademacher(slice_key, x.shape, x.dtype)
    memory = _last_estimate(denoiser, x, t, cond, first_pass)
    noise, slope = jax.jvp(lambda x: denoiser.recall(x, t, cond, memory)[0].noise, (x,), (v,))
    return jnp.mean(weight * (noise**2 - 2 * sigma * v * slope), axis=tuple(range(1, x0.ndim)))


def _last_estimate(
    denoiser: Denoiser, x: Array, t: ArrayLike, cond: Any, first_pass: ArrayLike
) -> Any:
    """Return the memory that a denoiser is trained with; see `Denoiser.recall`."""

    def asked() -> Any:
        _, memory = denoiser.recall(x, t, cond, denoiser.init(x))
        return jax.lax.stop_gradient(memory)

    if not denoiser.self_conditioning:
        return ()
    return jax.lax.cond(first_pass, asked, lambda: denoiser.init(x))


# name -> loss, for configurations.
OBJECTIVES: dict[str, Callable] = {"denoising": denoising_loss, "sliced": sliced_loss}
