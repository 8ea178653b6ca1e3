r"""UniPC (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6) on the data prediction.

UniP of order p continues the last p predictions by a polynomial in the half log-SNR, as exponential Adams-Bashforth does; UniC adds the
prediction at the new point, which the next step needs anyway, and does the step again with it. With one unknown only, the paper sets it to
1/2 and B(h) matters: :math:`B_1 = h` and :math:`B_2 = 1 - e^{-h}`, in the place of twice the moment :math:`I_1`.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from sde_lib import SDE, check_name

from .dpm import check_steps
from .exponential import fractions, half_log_snr, moments, usable, weights
from .multistep import Multistep, Row, data_rows
from .signal import signal_and_noise

# name -> (h, I_0(h)) -> B(h)
B = {"bh1": lambda h, i0: jnp.where(jnp.isinf(h), 0.0, h), "bh2": lambda h, i0: i0}


class UniPC(Multistep):
    """Unified predictor-corrector of order 2 or 3 (its corrector's is one more); one network call a step."""

    p: int = eqx.field(default=2, static=True)
    b: str = eqx.field(default="bh2", static=True)

    def __check_init__(self):
        check_steps(self.p, (1, 2, 3))
        check_name("b", self.b, B)

    @property
    def order(self) -> int:
        return self.p + 1

    @property
    def memory(self) -> int:
        return self.p

    def plan(self, sde: SDE, ts: Array) -> Row:
        lam, p = half_log_snr(sde, ts), self.p
        h, used = jnp.diff(lam), usable(lam, p)
        exact = moments(h, p + 1)
        half = exact.at[:, 1].set(B[self.b](h, exact[:, 0]) / 2)
        nodes = fractions(lam, p)
        predictor = weights(nodes, jnp.where(used[:, None] == 2, half, exact)[:, :p], used)
        # The corrector's nodes: the new point theta = 1, the start of the step, and the past.
        nodes = jnp.concatenate([jnp.ones_like(h)[:, None], nodes], 1)
        corrector = weights(nodes, jnp.where(used[:, None] == 1, half, exact), used + 1)
        change = alpha_of(sde, ts)[1:, None] * (corrector - jnp.pad(predictor, ((0, 0), (1, 0))))
        row = data_rows(sde, ts, jnp.pad(predictor, ((0, 0), (0, 1))))
        return row._replace(
            correct=jnp.pad(change, ((1, 0), (0, 0)))[:-1]
        )  # what corrects a step belongs to the next


def alpha_of(sde: SDE, ts: Array) -> Array:
    """Return alpha at the times of a grid."""
    return signal_and_noise(sde, ts)[0]
