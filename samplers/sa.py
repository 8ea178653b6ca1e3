r"""SA-Solver, a stochastic Adams method on the data prediction.

It is algorithm 1 of Xue et al. 2023, arXiv:2309.05019. The reverse process with noise level
:math:`\tau` has, with the half log-SNR :math:`\lambda`, the solution

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\tau^2 h} x_t + \alpha_s \sum_j w_j \hat x_{0, n-j}
    + \sigma_s \sqrt{1 - e^{-2 \tau^2 h}}\,z,

the weights being those of a polynomial and the moments :math:`I_k((1 + \tau^2) h)`. The predictor
interpolates past predictions. The corrector does the step again with the new one, under the same
noise.
"""

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
from .multistep import Multistep, MultistepCoefficients, data_prediction_plan
from .signal import signal_and_noise


class SASolver(Multistep):
    """Stochastic Adams solver; one network call a step.

    Attributes:
        predictor_steps: 1 to 4, the s of the paper's s-step predictor: predictions that it uses.
        corrector_steps: 0 to 4, those that the corrector uses beside the one at the new point; 0
            leaves the corrector out.
        tau: noise level; 1 gives the reverse SDE, 0 the probability flow.
    """

    predictor_steps: int = eqx.field(default=3, static=True)
    corrector_steps: int = eqx.field(default=3, static=True)
    tau: float = 1.0

    def __check_init__(self):
        check_one_of((1, 2, 3, 4), predictor_steps=self.predictor_steps)
        check_one_of((0, 1, 2, 3, 4), corrector_steps=self.corrector_steps)
        check_eta(tau=self.tau)

    @property
    def order(self) -> int:
        """2 with noise; without, that of the better of predictor and corrector."""
        if self.stochastic:
            return 2
        corrector_order = self.corrector_steps + 1 if self.corrector_steps else 0
        return max(self.predictor_steps, corrector_order)

    @property
    def past_predictions(self) -> int:
        """As many as predictor and corrector need."""
        if not self.corrector_steps:
            return self.predictor_steps - 1
        return max(self.predictor_steps, self.corrector_steps)

    @property
    def stochastic(self) -> bool:
        """Whether tau may be above 0; a traced tau counts as such."""
        return not known_zero(self.tau)

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of arXiv:2309.05019, algorithm 1; see `Sampler.plan`."""
        lam = half_log_snr(sde, ts)
        m = self.past_predictions + 1
        h = jnp.diff(lam)
        exact = moments(stretched(h, 1 + self.tau**2), m)
        nodes = past_nodes(lam, m)
        predictor = interpolation_weights(nodes, exact, usable_nodes(lam, self.predictor_steps))
        plan = data_prediction_plan(sde, ts, predictor, self.tau**2)
        if not self.corrector_steps:
            return plan
        # The corrector's nodes: the new point theta = 1, the start of the step, and the past.
        nodes = jnp.concatenate([jnp.ones_like(h)[:, None], nodes], 1)[:, :m]
        used = usable_nodes(lam, self.corrector_steps) + 1
        corrector = interpolation_weights(nodes, exact, used)
        alpha, _ = signal_and_noise(sde, ts)
        # The oldest of the m predictions serves the corrector only; the predictor does not use it.
        change = alpha[1:, None] * (corrector - jnp.pad(predictor, ((0, 0), (1, 0)))[:, :m])
        # What corrects a step belongs to the next one.
        return plan._replace(correction=jnp.pad(change, ((1, 0), (0, 0)))[:-1])
