r"""DPM-Solver and DPM-Solver++ with several steps, deterministic and stochastic.

The papers are Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095. With the fraction
:math:`\theta` of a step in the half log-SNR, the prediction is continued as
:math:`F_n + \theta D_1 + \theta^2 D_2` through past ones, and a step of the data prediction is

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t
    + \alpha_s \big[I_0 F_n + \tilde I_1 D_1 + \tilde I_2 D_2\big]
    + \sigma_s \sqrt{1 - e^{-2 \eta h}}\,z, \qquad I_k = I_k((1 + \eta) h);

one of the noise prediction has :math:`\sigma_s`, :math:`I_k(-h)` and :math:`\alpha_s / \alpha_t`
instead. The papers replace two moments. Their two-step solvers take :math:`\tilde I_1 = I_0 / 2`,
which changes the constant of the error. Their three-step solvers take :math:`\tilde I_2 = I_2 / 2`,
which leaves them of second order. `DEIS` uses the exact moments.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_eta, check_one_of, known_zero
from .exponential import (
    half_log_snr,
    interpolation_weights,
    moments,
    past_nodes,
    stretched,
    usable_nodes,
)
from .multistep import (
    Multistep,
    MultistepCoefficients,
    data_prediction_plan,
    noise_prediction_plan,
)


class DPMSolverM(Multistep):
    """Multistep DPM-Solver on the noise prediction; it is good at very few evaluations.

    Attributes:
        steps: 2 or 3, how many predictions a step interpolates through, the present one included.
    """

    order: ClassVar[int] = 2
    steps: int = eqx.field(default=3, static=True)

    def __check_init__(self):
        check_one_of((2, 3), steps=self.steps)

    @property
    def past_predictions(self) -> int:
        """The number of steps minus 1."""
        return self.steps - 1

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of arXiv:2206.00927 with past predictions; see `Sampler.plan`."""
        lam = half_log_snr(sde, ts)
        weights = _published_weights(lam, -jnp.diff(lam), self.steps)
        return noise_prediction_plan(sde, ts, jnp.exp(-lam[1:, None]) * weights)


class DPMpp2M(Multistep):
    """DPM-Solver++(2M): two-step solver on the data prediction."""

    order: ClassVar[int] = 2
    past_predictions: ClassVar[int] = 1

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of arXiv:2211.01095, algorithm 2; see `Sampler.plan`."""
        return _plus_plus_plan(sde, ts, steps=2)


class DPMpp3M(Multistep):
    """DPM-Solver++(3M): three-step solver on the data prediction, of second order as published."""

    order: ClassVar[int] = 2
    past_predictions: ClassVar[int] = 2

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of three steps; see `Sampler.plan`."""
        return _plus_plus_plan(sde, ts, steps=3)


class DPMpp2MSDE(Multistep):
    """SDE-DPM-Solver++(2M): two-step solver on the data prediction.

    Attributes:
        eta: noise level; 1 gives the reverse SDE, 0 the probability flow.
    """

    order: ClassVar[int] = 2
    past_predictions: ClassVar[int] = 1
    eta: float = 1.0

    def __check_init__(self):
        check_eta(eta=self.eta)

    @property
    def stochastic(self) -> bool:
        """Whether eta may be above 0; a traced eta counts as such."""
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of two steps; see `Sampler.plan`."""
        return _plus_plus_plan(sde, ts, steps=2, eta=self.eta)


class DPMpp3MSDE(Multistep):
    """SDE-DPM-Solver++(3M): three-step solver on the data prediction.

    Attributes:
        eta: noise level; 1 gives the reverse SDE, 0 the probability flow.
    """

    order: ClassVar[int] = 2
    past_predictions: ClassVar[int] = 2
    eta: float = 1.0

    def __check_init__(self):
        check_eta(eta=self.eta)

    @property
    def stochastic(self) -> bool:
        """Whether eta may be above 0; a traced eta counts as such."""
        return not known_zero(self.eta)

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of three steps; see `Sampler.plan`."""
        return _plus_plus_plan(sde, ts, steps=3, eta=self.eta)


def _plus_plus_plan(sde: SDE, ts: Array, steps: int, eta: float = 0.0) -> MultistepCoefficients:
    """Return the plan of a DPM-Solver++ on `steps` data predictions with noise level `eta`."""
    lam = half_log_snr(sde, ts)
    weights = _published_weights(lam, stretched(jnp.diff(lam), 1 + eta), steps)
    return data_prediction_plan(sde, ts, weights, eta)


def _published_weights(lam: Array, z: Array, steps: int) -> Array:
    """Return the weights of the present and past predictions (n, steps) as published.

    Args:
        lam: half log-SNR at the times of the grid (n + 1,).
        z: the argument of the moments (n,).
        steps: how many predictions a step interpolates through.
    """
    exact = moments(z, steps)
    used = usable_nodes(lam, steps)
    published = exact.at[:, 1].set(jnp.where(used == 2, exact[:, 0] / 2, exact[:, 1]))
    if steps > 2:
        published = published.at[:, 2].multiply(0.5)
    return interpolation_weights(past_nodes(lam, steps), published, used)
