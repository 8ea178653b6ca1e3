r"""Averages of the parameters whose length grows with training, and others made of them afterwards.

Let theta(t) be the parameters between update t - 1 and update t. The power-function average of the
relative width sigma_rel after T updates weights them by the profile

.. math:: p(t) = (\gamma + 1) \, t^\gamma / T^{\gamma + 1}, \qquad 0 \le t \le T,

whose standard deviation is sigma_rel T (Karras et al. 2023, arXiv:2312.02696, section 3.1). The
running average with beta = (1 - 1/T)^(gamma + 1) gives the parameters after update t the weight
(t^(gamma + 1) - (t - 1)^(gamma + 1)) / T^(gamma + 1), which is the integral of p over the update:
nothing is lost between the profile and what training keeps.

An average that was not kept is a combination of those that were stored, at several steps and in
two widths, whose profiles together come closest to its own (the same, section 3.2). Differently
from there, the weights of the combination add up to one by a constraint, and the rounding of what
is stored has its price in the fit: see `fit_profile`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

WIDEST = 1 / math.sqrt(12)  # the relative width of the mean of all updates, gamma = 0
ROUNDING = 2.0**-23  # of a number of float32, relative to it


class Profile(NamedTuple):
    """How much each update counts in a power-function average."""

    sigma_rel: float  # standard deviation of the profile over `step`
    step: float  # the last update that counts


class Combination(NamedTuple):
    """A profile as a combination of others."""

    weights: np.ndarray  # (profiles,) float64, which add up to 1
    error: float  # norm of what the combination misses over the norm of the profile, in L2


def exponent(sigma_rel: float) -> float:
    """Return gamma of the profile with a relative width (arXiv:2312.02696, eq. 3).

    It is the largest root of the cubic (gamma + 2)^2 (gamma + 3) sigma_rel^2 = gamma + 1.

    Raises:
        ValueError: no profile that grows with time is that wide, or it has no width.
    """
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(
            f"need 0 < sigma_rel < {WIDEST:.4g}, the width of the mean of all updates, got "
            f"{sigma_rel}; widths between 0.01 and 0.25 are of use"
        )
    inverse = 1 / sigma_rel**2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(max(root.real for root in roots))


def relative_width(gamma: float) -> float:
    """Return sigma_rel of the profile with an exponent (arXiv:2312.02696, eq. 3)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def power_update(average: Any, params: Any, gamma: float, step: Int[Array, ""]) -> Any:
    """Move a power-function average towards `params`, the parameters after `step` + 1 updates.

    Its old value counts (1 - 1/n)^(gamma + 1) with n = step + 1 (arXiv:2312.02696, eq. 2), which
    is nothing after the first update.
    """
    n = step + 1
    share = -jnp.expm1((gamma + 1) * jnp.log1p(-1 / n))
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


def inner_products(left: Sequence[Profile], right: Sequence[Profile]) -> np.ndarray:
    """Return the integrals of the products of profiles (left, right), in closed form, float64.

    With M the smaller of the two last updates, the integral over 0 <= t <= M is

    (g + 1)(h + 1) / (g + h + 1) (M / T_g)^(g + 1) (M / T_h)^(h + 1) / M.
    """
    g, step_g = (column[:, None] for column in _columns(left))
    h, step_h = _columns(right)
    shorter = np.minimum(step_g, step_h)
    ends = (shorter / step_g) ** (g + 1) * (shorter / step_h) ** (h + 1)
    return (g + 1) * (h + 1) / (g + h + 1) * ends / shorter


def fit_profile(target: Profile, profiles: Sequence[Profile]) -> Combination:
    """Return the combination of profiles that comes closest to a target (arXiv:2312.02696, 3.2).

    It minimises ``|p - sum_i x_i p_i|^2 / |p|^2 + e^2 sum_i x_i^2`` among weights x that add up to
    one, so that parameters that do not change are reproduced whatever the error is. With the
    rounding e = 2^-23 of what is stored, the second term keeps two averages of neighbouring steps
    from being subtracted with large weights, for a gain that their rounding would undo.

    Args:
        target: the profile that is wanted.
        profiles: those that were stored, no two of them equal.

    Raises:
        ValueError: there are no profiles.
    """
    if not profiles:
        raise ValueError("need at least one stored profile, got none")
    count = len(profiles)
    size = inner_products([target], [target]).item()
    gram = inner_products(profiles, profiles) / size
    towards = inner_products(profiles, [target])[:, 0] / size
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = gram + ROUNDING**2 * np.eye(count)
    system[count, count] = 0.0
    weights = np.linalg.solve(system, np.append(towards, 1.0))[:count]
    squared = weights @ gram @ weights - 2 * weights @ towards + 1
    return Combination(weights=weights, error=math.sqrt(max(squared, 0.0)))


def _columns(profiles: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    """Return the exponents and the last updates of profiles, each (profiles,)."""
    exponents = np.array([exponent(profile.sigma_rel) for profile in profiles])
    steps = np.array([profile.step for profile in profiles], np.float64)
    return exponents, steps
