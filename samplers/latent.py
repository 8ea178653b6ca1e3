r"""Latent codes: the probability flow as an invertible map between data and noise (Song et al.
2021, arXiv:2011.13456, section 4.3).

A code z has unit scale: the end point x_1 over the standard deviation of the prior. A model whose
flow is exact makes codes standard normal; in high dimension they lie near a sphere of radius
sqrt(D), and so should what is made of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sde_lib import SDE

from .checks import check_batch, check_count, check_number, check_problem, widened
from .counted import Denoise
from .likelihood import LogLikelihood
from .ode import probability_flow


def encode(
    denoise: Denoise,
    sde: SDE,
    x: Array,
    *,
    sd: ArrayLike | None = None,
    cond: Any = None,
    tolerance: ArrayLike = 1e-5,
) -> Array:
    """Return the codes (batch, ...) of data `x` at t_min; see `probability_flow` for `sd` and
    `tolerance`.
    """
    check_problem(denoise, sde)
    x, _, dtype = check_batch(x, cond)
    samples = probability_flow(
        denoise, sde, x, start=sde.t_min, end=1.0, sd=sd, cond=cond, rtol=tolerance, atol=tolerance
    )
    return (samples.x / sde.prior_std()).astype(dtype)


def decode(
    denoise: Denoise,
    sde: SDE,
    z: Array,
    *,
    sd: ArrayLike | None = None,
    cond: Any = None,
    tolerance: ArrayLike = 1e-5,
) -> Array:
    """Return the data at t_min that codes `z` (batch, ...) stand for, without a last denoising, so
    that it undoes `encode`.
    """
    check_problem(denoise, sde)
    z, _, dtype = check_batch(z, cond)
    x1 = (sde.prior_std() * z).astype(z.dtype)
    samples = probability_flow(
        denoise, sde, x1, start=1.0, end=sde.t_min, sd=sd, cond=cond, rtol=tolerance, atol=tolerance, denoise_last=False
    )  # fmt: skip
    return samples.x.astype(dtype)


def slerp(a: Array, b: Array, weight: ArrayLike) -> Array:
    """Return the code on the great circle from `a` to `b`, at the part `weight` of the way; its
    length changes linearly.

    `a` and `b` are single codes that are not 0, `weight` a number or a vector of numbers, which
    become the leading axis. A straight line would pass closer to the origin than codes of data ever
    are (White 2016, arXiv:1609.04468).
    """
    (a, dtype), (b, _) = widened(a), widened(b)
    check_codes(a, b)
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
    code = (turn[0] * a + turn[1] * b) * ((1 - weight) * size_a + weight * size_b)
    return code.astype(dtype)


def check_codes(a: Array, b: Array) -> None:
    """Raise a ValueError unless two single codes have one shape, and a direction as far as they are
    concrete.
    """
    if a.shape != b.shape:
        raise ValueError(f"a and b are two single codes of one shape, got {a.shape} and {b.shape}")
    for name, code in (("a", a), ("b", b)):
        if not isinstance(code, Tracer):
            with jax.ensure_compile_time_eval():
                length = float(jnp.linalg.norm(code))
            if not 0 < length < np.inf:
                raise ValueError(
                    f"{name} has no direction to turn from or to, its length is {length}"
                )


def with_temperature(z: Array, temperature: ArrayLike) -> Array:
    """Return the codes `z` scaled by `temperature`: below 1 decoding gives more typical, less
    varied data, above 1 the opposite.
    """
    check_number(
        "need temperature > 0",
        lambda v: v > 0,
        temperature=temperature,
    )
    z, dtype = widened(z)
    return (jnp.asarray(temperature) * z).astype(dtype)


class Neighbours(NamedTuple):
    """The nearest codes, nearest first."""

    index: Array  # (batch, k), into the codes that were searched
    distance: Float[Array, "batch k"]


def nearest_codes(z: Array, codes: Array, k: int = 1) -> Neighbours:
    """Return the `k` nearest of `codes` (n, ...) to each of `z` (batch, ...), by Euclidean
    distance.

    (batch, n) numbers are kept in memory.
    """
    if jnp.shape(z)[1:] != jnp.shape(codes)[1:]:
        raise ValueError(
            f"codes are compared with codes of one shape, got {jnp.shape(z)[1:]} and {jnp.shape(codes)[1:]}"
        )
    check_count(k=k)
    if k > len(codes):
        raise ValueError(f"need 1 <= k <= {len(codes)}, the number of codes, got {k}")
    (z, _), (codes, _) = widened(z), widened(codes)
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


def outlier_scores(sde: SDE, likelihood: LogLikelihood, reference: Float[Array, " n"]) -> Outlier:
    """Return out-of-distribution scores of examples from their likelihoods, beside those of
    `reference` data (log_prob, in nats).

    None of them decides alone. Likelihoods prefer simple images: plain pictures of another data set
    are often *more* likely than the training data (Nalisnick et al. 2019, arXiv:1810.09136), which
    is why `surprise` comes with the two-sided `atypical` (arXiv:1906.02994); an example can be
    typical in all three and still be foreign. Compare only at the same t_min, dequantisation and
    number of dimensions.
    """
    size = likelihood.latent[0].size
    surprise = -likelihood.log_prob / size
    radius = (
        jnp.linalg.norm(likelihood.latent.reshape(len(surprise), -1), axis=1)
        / sde.prior_std()
        / jnp.sqrt(size)
    )
    return Outlier(surprise, jnp.abs(surprise - jnp.median(-reference / size)), jnp.abs(radius - 1))
