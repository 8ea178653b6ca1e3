r"""Langevin dynamics at a fixed time, the corrector of score-based samplers.

It is that of Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5,

.. math::
    x &\leftarrow x + \varepsilon \nabla \log p_t(x) + \sqrt{2 \varepsilon}\,z, \\
    \varepsilon &= 2 A^2 \big(\text{snr}\,\|z\| / \|\nabla \log p_t\|\big)^2
    \text{ or } 2 A^2 (\text{snr}\,\sigma_t)^2,

with :math:`A = \alpha_t / \alpha_s` of the step at hand: the published factor 1 - beta_i of VP, and
1 for VE.

The second size depends on the time alone. At a finite step its stationary law is not p_t: on N(0,
v) the variance is :math:`v / (1 - \varepsilon / 2 v)`, at most 1 / (1 - snr^2) times v. The first
size, with norms averaged over a batch, has the same limit, 1 + snr^2 = 1.026 for the default snr.
With the norms of each sample the step is long where the score happens to be small, and the variance
is about 1 + snr^2 + 4 / d times v in d dimensions: 1.04 in 256, 1.09 in 64, 1.3 in 16, and without
bound in a few.
"""

import abc
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from sde_lib import SDE, check_name, repeat_evaluations

from .base import Sampler, fold, normal
from .checks import check_number
from .signal import signal_and_noise

# How many numbers have a norm that is steady enough to set a step: its variance is then off by 9 %.
LEAST_VALUES = 64


class LangevinCoefficients(NamedTuple):
    """What a corrector has to know of its time.

    Each field is a number; in a plan each is a vector (steps,).
    """

    t: Array
    sigma: Array
    ratio_squared: Array  # A^2 of the transition from s to t


class Corrector(Sampler):
    """A sampler that stays at its time and takes Langevin steps there.

    Attributes:
        n_steps: Langevin steps at each time of the grid, each with one network call.
        order: 1, which counts for nothing here.
    """

    order: ClassVar[int] = 1
    is_corrector: ClassVar[bool] = True
    if TYPE_CHECKING:  # which takes an AbstractVar for an argument of the constructor
        n_steps: ClassVar[int]
    else:
        n_steps: eqx.AbstractVar[int]

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise; here it always does."""
        return True

    def plan(self, sde: SDE, ts: Array) -> LangevinCoefficients:
        """Return what is known of the starts of the steps; see `Sampler.plan`."""
        alpha, sigma = signal_and_noise(sde, ts)
        return LangevinCoefficients(
            t=ts[:-1],
            sigma=sigma[:-1],
            ratio_squared=(alpha[:-1] / alpha[1:]) ** 2,
        )

    @abc.abstractmethod
    def step_size(self, score: Array, z: Array, coefficients: LangevinCoefficients) -> Array:
        """Return the step size epsilon, broadcastable against the state.

        Args:
            score: the score at the state (batch, ...).
            z: the standard normal noise of the step (batch, ...).
            coefficients: of this time.
        """

    def step(
        self, keys, denoise, x: Array, coefficients: LangevinCoefficients, memory: Any, cond: Any
    ) -> tuple[Array, Any]:
        """Take `n_steps` Langevin steps at the time of the coefficients; see `Sampler.step`."""

        def langevin_step(i, x):
            z = normal(fold(keys, i), x)
            score = -denoise(x, coefficients.t, cond).noise / coefficients.sigma
            epsilon = self.step_size(score, z, coefficients)
            return x + epsilon * score + jnp.sqrt(2 * epsilon) * z

        with repeat_evaluations(self.n_steps):
            if self.n_steps == 1:
                x = langevin_step(0, x)
            else:
                x = jax.lax.fori_loop(0, self.n_steps, langevin_step, x)
        return x, memory


def _check(snr: Any, n_steps: int) -> None:
    """Raise a ValueError unless the settings of a corrector make sense."""
    check_number("need 0 < snr < 1", lambda v: (0 < v) & (v < 1), snr=snr)
    whole = isinstance(n_steps, int | np.integer) and not isinstance(n_steps, bool)
    if not whole or n_steps < 1:
        raise ValueError(f"need at least one corrector step, got n_steps = {n_steps}")


def by_sample(snr: ArrayLike, score: Array, z: Array, coefficients: LangevinCoefficients) -> Array:
    """Return the step size of each sample from its own norms, (batch, 1, ...).

    Where one sample holds too few numbers, the norms of pure noise take their place.
    """
    if z[0].size < LEAST_VALUES:
        return by_level(snr, score, z, coefficients)
    return 2 * coefficients.ratio_squared * (snr * norm(z) / norm(score)) ** 2


def by_batch(snr: ArrayLike, score: Array, z: Array, coefficients: LangevinCoefficients) -> Array:
    """Return one step size from the mean norms of the batch, (1, 1, ...).

    Raises:
        ValueError: the batch holds too few numbers for a mean.
    """
    if z.size < LEAST_VALUES:
        raise ValueError(
            f"the norms of {len(z)} samples of {z[0].size} numbers are too erratic to set a step "
            f"size; need {LEAST_VALUES} numbers in a batch, or take AnnealedLangevin"
        )
    noise_norm, score_norm = (jnp.mean(norm(a), axis=0, keepdims=True) for a in (z, score))
    return 2 * coefficients.ratio_squared * (snr * noise_norm / score_norm) ** 2


def by_level(snr: ArrayLike, score: Array, z: Array, coefficients: LangevinCoefficients) -> Array:
    """Return the step size that follows the noise level alone, ()."""
    del score, z
    return 2 * coefficients.ratio_squared * (snr * coefficients.sigma) ** 2


def norm(a: Array) -> Array:
    """Return the Euclidean norm of each sample (batch, 1, ...)."""
    return jnp.sqrt(jnp.sum(a**2, axis=tuple(range(1, a.ndim)), keepdims=True))


# name -> (snr, score, z, coefficients) -> step size
NORMS = {"sample": by_sample, "batch": by_batch}


class Langevin(Corrector):
    """Corrector whose step follows the norms of noise and score; made for images.

    In fewer than 64 dimensions the norms of one sample are too erratic to set a step. Then those of
    pure noise take their place, :math:`\\|z\\|^2 = d` and
    :math:`\\|\\nabla \\log p_t\\|^2 = d / \\sigma_t^2`, which is `AnnealedLangevin`.

    Attributes:
        snr: signal-to-noise ratio of a step, between 0 and 1.
        n_steps: Langevin steps at each time of the grid.
        norms: "sample" gives each sample a step of its own; "batch" averages the norms over the
            batch as the published code does, at the price that a sample then depends on its batch.
    """

    snr: float = 0.16
    n_steps: int = 1
    norms: str = "sample"

    def __check_init__(self):
        _check(self.snr, self.n_steps)
        check_name("norms", self.norms, NORMS)

    def step_size(self, score: Array, z: Array, coefficients: LangevinCoefficients) -> Array:
        """Return the step size of algorithms 4 and 5; see `Corrector.step_size`."""
        return NORMS[self.norms](self.snr, score, z, coefficients)


class AnnealedLangevin(Corrector):
    """Corrector whose step follows sigma (Song and Ermon 2019, arXiv:1907.05600).

    It works in any dimension.

    Attributes:
        snr: signal-to-noise ratio of a step, between 0 and 1.
        n_steps: Langevin steps at each time of the grid.
    """

    snr: float = 0.16
    n_steps: int = 1

    def __check_init__(self):
        _check(self.snr, self.n_steps)

    def step_size(self, score: Array, z: Array, coefficients: LangevinCoefficients) -> Array:
        """Return the step size that follows sigma alone, (); see `Corrector.step_size`."""
        return by_level(self.snr, score, z, coefficients)
