r"""DPM-Solver and DPM-Solver++ with several steps (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095), deterministic and stochastic.

With the fraction :math:`\theta` of a step in the half log-SNR, the prediction is continued as
:math:`F_n + \theta D_1 + \theta^2 D_2` through past ones, and a step of the data prediction is

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s \big[I_0 F_n + \tilde I_1 D_1 + \tilde I_2 D_2\big]
    + \sigma_s \sqrt{1 - e^{-2 \eta h}}\,z, \qquad I_k = I_k((1 + \eta) h);

one of the noise prediction has :math:`\sigma_s`, :math:`I_k(-h)` and :math:`\alpha_s / \alpha_t` instead. The papers take
:math:`\tilde I_1 = I_0 / 2` in two-step solvers, which changes the error's constant, and :math:`\tilde I_2 = I_2 / 2` in three-step ones,
which leaves them of second order: the exact moments are those of `DEIS`.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE

from .checks import check_eta, known_zero
from .exponential import fractions, half_log_snr, moments, stretched, usable, weights
from .multistep import Multistep, Row, data_rows, noise_rows


def continued(lam: Array, z: Array, steps: int, ratio: float = jnp.inf) -> Array:
    """Return the weights of the present and past predictions (rows, steps) as published, in units of the step's own scale."""
    exact, used = moments(z, steps), usable(lam, steps, ratio)
    published = exact.at[:, 1].set(jnp.where(used == 2, exact[:, 0] / 2, exact[:, 1]))
    if steps > 2:
        published = published.at[:, 2].multiply(0.5)
    return weights(fractions(lam, steps), published, used)


class DPMSolverM(Multistep):
    """DPM-Solver on the noise prediction with `steps` = 2 or 3 steps of memory; good at very few evaluations."""

    order: ClassVar[int] = 2
    steps: int = eqx.field(default=3, static=True)

    def __check_init__(self):
        check_steps(self.steps, (2, 3))

    @property
    def memory(self) -> int:
        return self.steps - 1

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam = half_log_snr(sde, ts)
        return noise_rows(
            sde, ts, jnp.exp(-lam[1:, None]) * continued(lam, -jnp.diff(lam), self.steps)
        )


class DPMpp2M(Multistep):
    """DPM-Solver++(2M): two-step solver on the data prediction."""

    order: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam = half_log_snr(sde, ts)
        return data_rows(sde, ts, continued(lam, jnp.diff(lam), 2))


class DPMpp3M(Multistep):
    """DPM-Solver++(3M): three-step solver on the data prediction."""

    order: ClassVar[int] = 2

    @property
    def memory(self) -> int:
        return 2

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam = half_log_snr(sde, ts)
        return data_rows(sde, ts, continued(lam, jnp.diff(lam), 3))


class DPMpp2MSDE(Multistep):
    """SDE-DPM-Solver++(2M) with noise level `eta`: 1 is the reverse SDE."""

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __check_init__(self):
        check_eta(eta=self.eta)

    @property
    def memory(self) -> int:
        return 1

    @property
    def stochastic(self) -> bool:
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam = half_log_snr(sde, ts)
        return data_rows(
            sde, ts, continued(lam, stretched(jnp.diff(lam), 1 + self.eta), 2), self.eta
        )


class DPMpp3MSDE(Multistep):
    """SDE-DPM-Solver++(3M) with noise level `eta`: 1 is the reverse SDE."""

    order: ClassVar[int] = 2
    eta: float = 1.0

    def __check_init__(self):
        check_eta(eta=self.eta)

    @property
    def memory(self) -> int:
        return 2

    @property
    def stochastic(self) -> bool:
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam = half_log_snr(sde, ts)
        return data_rows(
            sde, ts, continued(lam, stretched(jnp.diff(lam), 1 + self.eta), 3), self.eta
        )


def check_steps(steps: int, allowed: tuple[int, ...]) -> None:
    """Raise a ValueError unless a solver with so many steps exists."""
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps not in allowed:
        raise ValueError(f"need one of {', '.join(map(str, allowed))} steps, got {steps}")
