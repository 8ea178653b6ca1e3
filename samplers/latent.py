r"""Latent codes: the probability flow as an invertible map between data and noise (Song et al. 2021, arXiv:2011.13456, section 4.3).

A code z has unit scale: the end point x_1 over the standard deviation of the prior. A model whose flow is exact makes codes standard
normal; in high dimension they lie near a sphere of radius sqrt(D), and so should what is made of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sde_lib import SDE

from .base import Denoise
from .likelihood import LogLikelihood
from .ode import probability_flow


def encode(
    denoise: Denoise,
    sde: SDE,
    x: Float[Array, "batch ..."],
    *,
    cond: Any = None,
    tolerance: ArrayLike = 1e-5,
) -> Array:
    """Return the codes (batch, ...) of data `x` at t_min."""
    end = probability_flow(
        denoise, sde, x, start=sde.t_min, end=1.0, cond=cond, rtol=tolerance, atol=tolerance
    )
    return end.x / sde.prior_std()


def decode(
    denoise: Denoise,
    sde: SDE,
    z: Float[Array, "batch ..."],
    *,
    cond: Any = None,
    tolerance: ArrayLike = 1e-5,
) -> Array:
    """Return the data at t_min that codes `z` (batch, ...) stand for, without a last denoising, so that it undoes `encode`."""
    x1 = sde.prior_std() * z
    return probability_flow(
        denoise, sde, x1, start=1.0, end=sde.t_min, cond=cond, rtol=tolerance, atol=tolerance, denoise_last=False
    ).x  # fmt: skip


def slerp(a: Float[Array, "..."], b: Float[Array, "..."], weight: ArrayLike) -> Array:
    """Return the code on the great circle from `a` to `b`, at the part `weight` of the way; its length goes linearly from |a| to |b|.

    `a` and `b` are single codes, `weight` a number or a vector of numbers, which become the leading axis. A straight line would pass
    closer to the origin than codes of data ever are (White 2016, arXiv:1609.04468).
    """
    weight = jnp.asarray(weight, a.dtype).reshape(jnp.shape(weight) + (1,) * a.ndim)
    size_a, size_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    a, b = a / size_a, b / size_b
    omega = 2 * jnp.arctan2(
        jnp.linalg.norm(a - b), jnp.linalg.norm(a + b)
    )  # arccos of the product loses small angles
    small = jnp.sin(omega) < 1e-6
    safe = jnp.where(small, 1.0, omega)
    turn = [jnp.where(small, w, jnp.sin(w * safe) / jnp.sin(safe)) for w in (1 - weight, weight)]
    a, b = (code.reshape((1,) * (weight.ndim - a.ndim) + a.shape) for code in (a, b))
    return (turn[0] * a + turn[1] * b) * ((1 - weight) * size_a + weight * size_b)


def temper(z: Float[Array, "batch ..."], temperature: float) -> Array:
    """Return the codes scaled by `temperature`: below 1 decoding gives more typical, less varied data, above 1 the opposite."""
    if temperature <= 0:
        raise ValueError(f"need temperature > 0, got {temperature}; 0 would decode to one mode")
    return temperature * z


class Neighbours(NamedTuple):
    """The nearest codes, nearest first."""

    index: Array  # (batch, k), into the codes that were searched
    distance: Float[Array, "batch k"]


def nearest(z: Float[Array, "batch ..."], codes: Float[Array, "n ..."], k: int = 1) -> Neighbours:
    """Return the `k` nearest of `codes` to each of `z`, by Euclidean distance; (batch, n) numbers are kept in memory."""
    if not 1 <= k <= len(codes):
        raise ValueError(f"need 1 <= k <= {len(codes)}, the number of codes, got {k}")
    a, b = z.reshape(len(z), -1), codes.reshape(len(codes), -1)
    distance = jax.lax.map(lambda row: jnp.linalg.norm(b - row[None], axis=1), a)
    index = jnp.argsort(distance, axis=1)[:, :k]
    return Neighbours(index, jnp.take_along_axis(distance, index, 1))


class Outlier(NamedTuple):
    """Scores that are larger the less typical an example is."""

    surprise: Float[Array, " batch"]  # -log p per dimension, in nats
    atypical: Float[Array, " batch"]  # |surprise - its median over reference data|
    radius: Float[
        Array, " batch"
    ]  # | |z| / sqrt(D) - 1 |, how far the code is from the sphere of typical noise


def outlier_scores(sde: SDE, found: LogLikelihood, reference: Float[Array, " n"]) -> Outlier:
    """Return out-of-distribution scores of examples from their likelihoods, beside those of `reference` data (log_prob, in nats).

    None of them decides alone. Likelihoods prefer simple images: plain pictures of another data set are often *more* likely than the
    training data (Nalisnick et al. 2019, arXiv:1810.09136), which is why `surprise` comes with the two-sided `atypical` (arXiv:1906.02994);
    an example can be typical in all three and still be foreign. Compare only at the same t_min, dequantisation and number of dimensions.
    """
    size = found.latent[0].size
    surprise = -found.log_prob / size
    radius = (
        jnp.linalg.norm(found.latent.reshape(len(surprise), -1), axis=1)
        / sde.prior_std()
        / jnp.sqrt(size)
    )
    return Outlier(surprise, jnp.abs(surprise - jnp.median(-reference / size)), jnp.abs(radius - 1))
