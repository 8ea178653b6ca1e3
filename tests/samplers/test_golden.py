r"""A published kind of problem with exact numbers: data N(1, 0.5^2), noise 80 -> 0.002 -> 0 on Karras's grid, in float64.

Largest error against the exact flow to noise level 0, :math:`x_0 = 1 + 0.5 (x - 1) / \sqrt{0.5^2 + 80^2}`, over starts in +-160.
The numbers were computed with independent implementations of the methods; n grid points and then zero noise mean n steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, DPM2, LMS, DPMpp2M, Heun
from sde_lib import SDE, Estimate
from tests.samplers.eager import walk

TABLE = {
    DDIM: {16: 1.7e-1, 32: 8.8e-2, 64: 4.4e-2, 128: 2.2e-2},  # = Euler's method in sigma
    LMS: {16: 6.2e-2, 32: 8.3e-3, 64: 7.4e-4, 128: 5.5e-5},
    DPM2: {31: 4.1e-2, 63: 9.1e-3, 127: 2.1e-3, 255: 5.1e-4},
    Heun: {31: 7.3e-2, 63: 1.6e-2, 127: 3.7e-3, 255: 8.9e-4},
    DPMpp2M: {16: 8.1e-2, 32: 1.7e-2, 64: 3.8e-3, 128: 9.0e-4},
}


class EDM(SDE):
    """Noise that grows linearly to 80, as a user would write it."""

    def marginal(self, t):
        return jnp.ones_like(t), 80 * t


TWICE = (Heun, DPM2)  # network calls a step


def estimate(x, alpha, sigma):
    """Return the exact estimate; at zero noise the data are the state."""
    return Estimate(1 + 0.25 / (0.25 + sigma**2) * (x - 1), sigma / (0.25 + sigma**2) * (x - 1))


@pytest.mark.parametrize(
    ("cls", "nfe"),
    [(cls, nfe) for cls, row in TABLE.items() for nfe in row],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_errors_are_those_of_the_table(cls, nfe):
    # The last step, to zero noise, is Euler's for the single-step methods, which is one evaluation, but LMS's own.
    sde, points = EDM(t_min=0.0), (nfe + 1) // 2 if cls in TWICE else nfe
    x = np.linspace(-160.0, 160.0, 101)[:, None]
    ts = np.append(np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), points) ** 7 / 80, 0.0)
    with jax.enable_x64(True):
        end = walk(cls(), sde, ts, x, estimate)
    error = np.max(np.abs(end - (1 + 0.5 * (x - 1) / np.hypot(0.5, 80))))
    assert float(f"{error:.1e}") == TABLE[cls][nfe]
