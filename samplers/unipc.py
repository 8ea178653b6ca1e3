r"""UniPC (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6) on the data prediction.

The predictor UniP-p continues the last p predictions by a polynomial in the half log-SNR, as
exponential Adams-Bashforth does. The corrector UniC-p adds the prediction at the new point, which
the next step needs anyway, and does the step again with it. Where only one weight is unknown, the
paper sets it to 1/2. Then the function B(h) matters, which is :math:`B_1 = h` or
:math:`B_2 = 1 - e^{-h}` and takes the place of twice the moment :math:`I_1`.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, check_name

from .checks import check_one_of
from .exponential import half_log_snr, interpolation_weights, moments, past_nodes, usable_nodes
from .multistep import Multistep, MultistepCoefficients, data_prediction_plan
from .signal import signal_and_noise

# name -> (h, I_0(h)) -> B(h), each (steps,)
VARIANTS = {
    "bh1": lambda h, moment: jnp.where(jnp.isinf(h), 0.0, h),
    "bh2": lambda h, moment: moment,
}


class UniPC(Multistep):
    """Unified predictor-corrector; one network call a step.

    Attributes:
        predictor_order: 1 to 3, the p of UniPC-p; the corrector raises the order by one.
        variant: the function B(h), "bh1" or "bh2".
    """

    predictor_order: int = eqx.field(default=2, static=True)
    variant: str = eqx.field(default="bh2", static=True)

    def __check_init__(self):
        check_one_of((1, 2, 3), predictor_order=self.predictor_order)
        check_name("variant", self.variant, VARIANTS)

    @property
    def order(self) -> int:
        """The order of the corrector, one more than that of the predictor."""
        return self.predictor_order + 1

    @property
    def past_predictions(self) -> int:
        """As many as the corrector interpolates through beside the prediction at the new point."""
        return self.predictor_order

    def plan(self, sde: SDE, ts: Array) -> MultistepCoefficients:
        """Return the coefficients of arXiv:2302.04867, algorithms 5 and 6; see `Sampler.plan`."""
        lam = half_log_snr(sde, ts)
        p = self.predictor_order
        h = jnp.diff(lam)
        used = usable_nodes(lam, p)
        exact = moments(h, p + 1)
        halved = exact.at[:, 1].set(VARIANTS[self.variant](h, exact[:, 0]) / 2)
        predictor_moments = jnp.where(used[:, None] == 2, halved, exact)[:, :p]
        corrector_moments = jnp.where(used[:, None] == 1, halved, exact)
        nodes = past_nodes(lam, p)
        predictor = interpolation_weights(nodes, predictor_moments, used)
        # The corrector's nodes: the new point theta = 1, the start of the step, and the past.
        nodes = jnp.concatenate([jnp.ones_like(h)[:, None], nodes], 1)
        corrector = interpolation_weights(nodes, corrector_moments, used + 1)
        alpha, _ = signal_and_noise(sde, ts)
        change = alpha[1:, None] * (corrector - jnp.pad(predictor, ((0, 0), (1, 0))))
        plan = data_prediction_plan(sde, ts, jnp.pad(predictor, ((0, 0), (0, 1))))
        # What corrects a step belongs to the next one.
        return plan._replace(correction=jnp.pad(change, ((1, 0), (0, 0)))[:-1])
