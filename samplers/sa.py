r"""SA-Solver, a stochastic Adams method (Xue et al. 2023, arXiv:2309.05019, algorithm 1) on the data prediction.

The reverse process with noise level :math:`\tau` has, with the half log-SNR :math:`\lambda`, the solution

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\tau^2 h} x_t + \alpha_s \sum_j w_j \hat x_{0, n-j} + \sigma_s \sqrt{1 - e^{-2 \tau^2 h}}\,z,

the weights being those of a polynomial and the moments :math:`I_k((1 + \tau^2) h)`. The predictor interpolates past predictions; the
corrector does the step again with the new one, under the same noise.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE

from .checks import check_eta, known_zero
from .dpm import check_steps
from .exponential import fractions, half_log_snr, moments, stretched, usable, weights
from .multistep import Multistep, Row, data_rows
from .signal import signal_and_noise


class SASolver(Multistep):
    """Stochastic Adams solver; `predictor` and `corrector` count the past predictions used, corrector = 0 does without."""

    predictor: int = eqx.field(default=3, static=True)
    corrector: int = eqx.field(default=3, static=True)
    tau: float = 1.0

    def __check_init__(self):
        check_steps(self.predictor, (1, 2, 3, 4))
        check_steps(self.corrector, (0, 1, 2, 3, 4))
        check_eta(tau=self.tau)

    @property
    def order(self) -> int:
        return 2 if self.stochastic else max(self.predictor, self.corrector + (self.corrector > 0))

    @property
    def memory(self) -> int:
        return max(self.predictor, self.corrector) if self.corrector else self.predictor - 1

    @property
    def stochastic(self) -> bool:
        return not known_zero(self.tau)

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam, m = half_log_snr(sde, ts), self.memory + 1
        h = jnp.diff(lam)
        exact, nodes = moments(stretched(h, 1 + self.tau**2), m), fractions(lam, m)
        predictor = weights(nodes, exact, usable(lam, self.predictor))
        row = data_rows(sde, ts, predictor, self.tau**2)
        if not self.corrector:
            return row
        nodes = jnp.concatenate([jnp.ones_like(h)[:, None], nodes], 1)[:, :m]
        corrector = weights(nodes, exact, usable(lam, self.corrector) + 1)
        # Width m: the oldest of the m predictions is only remembered for this, the predictor does not use it.
        change = signal_and_noise(sde, ts)[0][1:, None] * (
            corrector - jnp.pad(predictor, ((0, 0), (1, 0)))[:, :m]
        )
        return row._replace(correct=jnp.pad(change, ((1, 0), (0, 0)))[:-1])
