"""Latent codes: the probability flow as an invertible map between data and noise.

It is section 4.3 of Song et al. 2021, arXiv:2011.13456. A code z has unit scale: it is the end
point x_1 over the standard deviation of the prior. A model whose flow is exact makes codes standard
normal. In high dimension they lie near a sphere of radius sqrt(D), and so should what is made of
them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sde_lib import SDE, Denoise

from .checks import check_batch, check_count, check_number, check_problem, widened
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
    """Return the codes (batch, ...) of data.

    Args:
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        x: data (batch, ...), at t_min.
        sd: standard deviation of the data; by default the denoiser's `sigma_data`, else 1.
        cond: a pytree of conditions with leading axis `batch`.
        tolerance: relative and absolute, of a step of `probability_flow`.

    Returns:
        Codes in the floating type of `x`; NaN for a sample that did not arrive.

    Raises:
        ValueError: an impossible state or tolerance, or conditions that do not fit the batch.
    """
    check_problem(denoise, sde)
    x, _, dtype = check_batch(x, cond)
    samples = probability_flow(
        denoise,
        sde,
        x,
        start=sde.t_min,
        end=1.0,
        sd=sd,
        cond=cond,
        rtol=tolerance,
        atol=tolerance,
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
    """Return the data (batch, ...) at t_min that codes stand for.

    It undoes `encode`: there is no denoising at the end.

    Args:
        denoise: the denoiser, see `Denoise`.
        sde: the process.
        z: codes (batch, ...).
        sd: standard deviation of the data; by default the denoiser's `sigma_data`, else 1.
        cond: a pytree of conditions with leading axis `batch`.
        tolerance: relative and absolute, of a step of `probability_flow`.

    Returns:
        Data in the floating type of `z`; NaN for a sample that did not arrive.

    Raises:
        ValueError: impossible codes or tolerance, or conditions that do not fit the batch.
    """
    check_problem(denoise, sde)
    z, _, dtype = check_batch(z, cond)
    x1 = (sde.prior_std() * z).astype(z.dtype)
    samples = probability_flow(
        denoise,
        sde,
        x1,
        start=1.0,
        end=sde.t_min,
        sd=sd,
        cond=cond,
        rtol=tolerance,
        atol=tolerance,
        denoise_last=False,
    )
    return samples.x.astype(dtype)


def slerp(a: Array, b: Array, weight: ArrayLike) -> Array:
    """Return the code on the great circle between two codes.

    Its length changes linearly. A straight line would pass closer to the origin than codes of data
    ever are (White 2016, arXiv:1609.04468).

    Args:
        a: a single code (...) that is not 0.
        b: another one.
        weight: the part of the way from `a` to `b`, a number or a vector of numbers, which become
            the leading axis.

    Raises:
        ValueError: the codes differ in shape, or have no direction.
    """
    (a, dtype), (b, _) = widened(a), widened(b)
    check_codes(a, b)
    weight = jnp.asarray(weight, a.dtype).reshape(jnp.shape(weight) + (1,) * a.ndim)
    size_a, size_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    a, b = a / size_a, b / size_b
    # The arccos of the product would lose small angles.
    angle = 2 * jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b))
    small = jnp.sin(angle) < 1e-6
    safe = jnp.where(small, 1.0, angle)
    share_a, share_b = (
        jnp.where(small, part, jnp.sin(part * safe) / jnp.sin(safe))
        for part in (1 - weight, weight)
    )
    a, b = (code.reshape((1,) * (weight.ndim - a.ndim) + a.shape) for code in (a, b))
    length = (1 - weight) * size_a + weight * size_b
    return ((share_a * a + share_b * b) * length).astype(dtype)


def check_codes(a: Array, b: Array) -> None:
    """Raise a ValueError unless two single codes have one shape and known directions."""
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
    """Return the codes `z` (batch, ...) scaled by `temperature`.

    Below 1 decoding gives more typical, less varied data, above 1 the opposite.

    Raises:
        ValueError: the temperature is not above 0.
    """
    check_number("need temperature > 0", lambda v: v > 0, temperature=temperature)
    z, dtype = widened(z)
    return (jnp.asarray(temperature) * z).astype(dtype)


class Neighbours(NamedTuple):
    """The nearest codes, nearest first."""

    index: Array  # (batch, k), into the codes that were searched
    distance: Float[Array, "batch k"]


def nearest_codes(z: Array, codes: Array, k: int = 1) -> Neighbours:
    """Return the nearest of many codes to each of some, by Euclidean distance.

    (batch, n) numbers are held in memory.

    Args:
        z: codes (batch, ...).
        codes: those among which the nearest are sought (n, ...).
        k: how many to return for each.

    Raises:
        ValueError: the codes differ in shape, or there are fewer than `k`.
    """
    if jnp.shape(z)[1:] != jnp.shape(codes)[1:]:
        raise ValueError(
            "codes are compared with codes of one shape, "
            f"got {jnp.shape(z)[1:]} and {jnp.shape(codes)[1:]}"
        )
    check_count(k=k)
    if k > len(codes):
        raise ValueError(f"need 1 <= k <= {len(codes)}, the number of codes, got {k}")
    (z, _), (codes, _) = widened(z), widened(codes)
    a, b = z.reshape(len(z), -1), codes.reshape(len(codes), -1)
    distance = jax.lax.map(lambda row: jnp.linalg.norm(b - row[None], axis=1), a)
    index = jnp.argsort(distance, axis=1)[:, :k]
    return Neighbours(index=index, distance=jnp.take_along_axis(distance, index, 1))


class Outlier(NamedTuple):
    """Scores that are larger the less typical an example is."""

    surprise: Float[Array, " batch"]  # -log p per dimension, in nats
    atypical: Float[Array, " batch"]  # |surprise - its median over reference data|
    radius: Float[Array, " batch"]  # | |z| / sqrt(D) - 1 |, the code's distance from typical noise


def outlier_scores(sde: SDE, likelihood: LogLikelihood, reference: Float[Array, " n"]) -> Outlier:
    """Return out-of-distribution scores of examples from their likelihoods.

    None of them decides alone. Likelihoods prefer simple images: plain pictures of another data set
    are often *more* likely than the training data (Nalisnick et al. 2019, arXiv:1810.09136), which
    is why `surprise` comes with the two-sided `atypical` (arXiv:1906.02994). An example can be
    typical in all three and still be foreign. Compare only at the same t_min, dequantisation and
    number of dimensions.

    Args:
        sde: the process.
        likelihood: of the examples.
        reference: log_prob (n,) of reference data, in nats.
    """
    size = likelihood.latent[0].size
    surprise = -likelihood.log_prob / size
    length = jnp.linalg.norm(likelihood.latent.reshape(len(surprise), -1), axis=1)
    radius = length / sde.prior_std() / jnp.sqrt(size)
    return Outlier(
        surprise=surprise,
        atypical=jnp.abs(surprise - jnp.median(-reference / size)),
        radius=jnp.abs(radius - 1),
    )
