r"""Particles that sample powers and products of what denoisers know, with Feynman-Kac weights.

A guided score is not the score of any noised law, so plain guidance at scale b does not sample
:math:`q_u^{1-b} q_c^b`. Walks along the reverse SDE of the guided score do, if each is weighted
(Skreta et al. 2025, arXiv:2503.02819). In the symbols of `weighted_walk.py`:

:math:`q_u^{1-b} q_c^b`
    :math:`D = D_u + b (D_c - D_u)`, :math:`\kappa = (1 + \eta) / 2`,
    :math:`R = b (b-1) |e_c - e_u|^2`
:math:`q^b`
    D that of q, :math:`\kappa = b (1 + \eta) / 2`, :math:`R = b (b-1) |e|^2`

with the noise estimates e. It follows from the Fokker-Planck equations of the densities: with
scores s and :math:`g^2 d\tau = 2 \sigma^2 d\ell` on the way back, the first law's log-density grows
faster than its walk tells by :math:`\frac12 g^2 b (b - 1) |s_c - s_u|^2 d\tau`. The noise level eta
of the walk is free: what it adds to the reverse SDE is a Langevin step, which leaves each law as it
is. The more noise, the sooner a particle forgets where it came from, and the fewer the weights that
matter, but the shorter the steps have to be.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Key

from sde_lib import SDE, Denoise, in_float64
from sde_lib.guidance.base import between
from sde_lib.guidance.classifier_free import both, both_memories

from ..checks import check_batch, check_key, check_number, check_problem
from ..counted import Counted
from ..signal import signal_and_noise
from ..walk import check_grid
from .weighted_walk import Particles, plan_of, weighted_walk


def guided_particles(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    ts: ArrayLike,
    x: Array,
    *,
    cond: Any,
    power: ArrayLike,
    null: Any = None,
    log_weights: ArrayLike | None = None,
    eta: ArrayLike = 3.0,
    threshold: ArrayLike = 0.9,
) -> Particles:
    """Sample q_u^(1 - power) q_c^power, which classifier-free guidance at that scale is meant to.

    Each step costs the two evaluations of guidance, and so does the denoising at the end. At power
    1 the particles are those of `sample` with `DPMpp2MSDE(eta)`, and all weights are equal. The
    shares of modes that lie far apart are decided early, and vary from run to run by more than
    those of independent draws; `log_normaliser` varies with them.

    Args:
        key: the key of the run.
        denoise: takes conditions, or `null` for none.
        sde: the process.
        ts: decreasing times (steps + 1,). Take the more steps the larger the power, some 50 for
            each unit of it, as ``grids.centred(sde, steps)`` lays them. The error of the
            log-normaliser falls as their number squared.
        x: the start (particles, ...), drawn from the prior. At t = 1 both laws agree with it, but
            for what signal is left there.
        cond: conditions with leading axis `particles`, all the same.
        power: b in the formulas, the guidance scale; any number for which the law exists.
        null: what `denoise` takes for "no condition", see `sde_lib.ClassifierFree`.
        log_weights: of the start (particles,), where the densities at ts[0] are known: the log of
            q_u^(1 - power) q_c^power over the density that `x` was drawn from. By default 0.
        eta: noise level of the walk, above 0; 1 is the reverse SDE.
        threshold: particles are resampled when their effective size is below this part of their
            number; 0 is never.

    Returns:
        Particles, clean data. Average with the weights ``jax.nn.softmax(log_weights)``.

    Raises:
        ValueError: conditions that differ, or what `sample` refuses.
    """
    start = _checked(key, denoise, sde, x, cond, power, eta, threshold, log_weights)
    particles = weighted_walk(
        key=key,
        field=_Guided(Counted(denoise), jnp.asarray(power, start.x.dtype), null),
        plan=in_float64(plan_of, sde, check_grid(sde, ts), 0.5 * (1 + eta), eta),
        x=start.x,
        log_weights=start.log_weights,
        cond=cond,
        threshold=threshold,
    )
    return particles._replace(x=particles.x.astype(start.dtype))


def tempered_particles(
    key: Key[Array, ""],
    denoise: Denoise,
    sde: SDE,
    ts: ArrayLike,
    x: Array,
    *,
    power: ArrayLike,
    cond: Any = None,
    eta: ArrayLike = 3.0,
    threshold: ArrayLike = 0.9,
) -> Particles:
    """Sample q^power for the law q that a denoise function knows.

    The walk starts from the power of the prior, for which `x` is shrunk by sqrt(power). Weights
    vary also where there is but noise, the more the more dimensions, so this is for a few of them.

    Args:
        key: the key of the run.
        denoise: the denoise function.
        sde: the process.
        ts: decreasing times (steps + 1,), some 50 for each unit of power; ts[0] needs some signal.
        x: draws of the prior (particles, ...).
        power: above 0 and above 1 / (1 + eta).
        cond: conditions with leading axis `particles`, all the same.
        eta: as in `guided_particles`.
        threshold: as in `guided_particles`.

    Returns:
        Particles, whose log_normaliser is that of the integral of q^power, but for what differs
        between the prior and q at ts[0].

    Raises:
        ValueError: conditions that differ, an impossible power, no signal at ts[0], or what
            `sample` refuses.
    """
    start = _checked(key, denoise, sde, x, cond, power, eta, threshold, None)
    check_number(
        "need power above 0 and above 1 / (1 + eta)",
        lambda b: (b > 0) & (b * (1 + eta) > 1),
        power=power,
    )
    grid = check_grid(sde, ts)
    b = jnp.asarray(power, start.x.dtype)
    log_start = _log_prior_power(sde, grid[0], b, math.prod(start.x.shape[1:]))
    particles = weighted_walk(
        key=key,
        field=_Tempered(Counted(denoise), b),
        plan=in_float64(plan_of, sde, grid, 0.5 * power * (1 + eta), eta),
        x=start.x / jnp.sqrt(b),
        log_weights=start.log_weights + log_start,
        cond=cond,
        threshold=threshold,
    )
    return particles._replace(x=particles.x.astype(start.dtype))


class _Guided(eqx.Module):
    """What moves and weights particles of q_u^(1 - power) q_c^power."""

    denoise: Counted
    power: Array
    null: Any

    def __call__(self, x, t, cond) -> tuple[Array, Array]:
        """Return D (particles, ...) and R (particles,)."""
        memory = both_memories(self.denoise, x)
        (weak, strong), _ = both(self.denoise, x, t, cond, self.null, memory)
        x0 = between(weak, strong, self.power).x0
        return x0, self.power * (self.power - 1) * _square(strong.noise - weak.noise)


class _Tempered(eqx.Module):
    """What moves and weights particles of q^power."""

    denoise: Counted
    power: Array

    def __call__(self, x, t, cond) -> tuple[Array, Array]:
        """Return D (particles, ...) and R (particles,)."""
        x0, noise = self.denoise(x, t, cond)
        return x0, self.power * (self.power - 1) * _square(noise)


def _square(noise: Array) -> Array:
    """Return the squared norm of each particle's noise, (particles,)."""
    return jnp.sum(noise**2, tuple(range(1, noise.ndim)))


def _traced(value: Any) -> bool:
    return isinstance(value, Tracer)


def _log_prior_power(sde: SDE, t: Any, power: Array, d: int) -> Array:
    """Return the log of the integral of N(y; 0, s^2 I)^power over y = x / alpha of d dimensions.

    Raises:
        ValueError: no signal is left at `t`.
    """
    alpha, _ = in_float64(signal_and_noise, sde, t)
    if not _traced(alpha) and not np.all(alpha > 0):
        raise ValueError(
            f"{type(sde).__name__} leaves no signal at ts[0] = {t:g}, where powers of densities "
            "cannot be compared; start the grid below it, as in start=0.99"
        )
    log_std = jnp.log(jnp.asarray(sde.prior_std() / alpha, power.dtype))
    log_peak = log_std + 0.5 * math.log(2 * math.pi)
    return -d * ((power - 1) * log_peak + 0.5 * jnp.log(power))


class _Start(NamedTuple):
    """A start that was checked."""

    x: Array  # (particles, ...) in the type that the walk computes in
    log_weights: Array  # (particles,)
    dtype: DTypeLike  # of the result


def _checked(key, denoise, sde, x, cond, power, eta, threshold, log_weights) -> _Start:
    """Return the start, or raise a ValueError."""
    check_key(key)
    check_problem(denoise, sde)
    check_number("need a finite power", np.isfinite, power=power)
    check_number("need eta > 0", lambda v: (v > 0) & np.isfinite(v), eta=eta)
    check_number("need a threshold from 0 to 1", lambda v: (v >= 0) & (v <= 1), threshold=threshold)
    x, _, dtype = check_batch(x, cond)
    _check_same(cond)
    weights = jnp.zeros(len(x)) if log_weights is None else jnp.asarray(log_weights)
    if weights.shape != x.shape[:1]:
        raise ValueError(
            f"need a log-weight for each of the {len(x)} particles, got shape {weights.shape}"
        )
    return _Start(x=x, log_weights=weights.astype(x.dtype), dtype=dtype)


def _check_same(cond: Any) -> None:
    """Raise a ValueError if the conditions of the particles are known to differ."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cond):
        if not _traced(leaf) and np.any(np.asarray(leaf) != np.asarray(leaf)[:1]):
            raise ValueError(
                "all particles stand for one law and have the same conditions, but those of "
                f"cond{jax.tree_util.keystr(path)} differ; map over laws with jax.vmap"
            )
