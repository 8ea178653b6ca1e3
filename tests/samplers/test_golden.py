r"""A published kind of problem with exact numbers: data N(1, 0.5^2), noise 80 -> 0.002 -> 0 on Karras's grid, in float64.

Largest error against the exact flow to noise level 0, :math:`x_0 = 1 + 0.5 (x - 1) / \sqrt{0.5^2 + 80^2}`, over starts in +-160.
The numbers were computed with independent implementations of the three methods; n grid points mean n - 1 steps and the final denoising.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DDIM, DPMpp2M, Heun, grids, sample
from sde_lib import SDE, Gaussian

TABLE = {
    DDIM: {16: 1.7e-1, 32: 8.8e-2, 64: 4.4e-2, 128: 2.2e-2},  # = Euler's method in sigma
    Heun: {31: 7.3e-2, 63: 1.6e-2, 127: 3.7e-3, 255: 8.9e-4},
    DPMpp2M: {16: 8.1e-2, 32: 1.7e-2, 64: 3.8e-3, 128: 9.0e-4},
}


class EDM(SDE):
    """Noise that grows linearly to 80, as a user would write it."""

    def marginal(self, t):
        return jnp.ones_like(t), 80 * t


@pytest.mark.parametrize(("cls", "nfe"), [(cls, nfe) for cls, row in TABLE.items() for nfe in row], ids=lambda v: getattr(v, "__name__", v))
def test_errors_are_those_of_the_table(cls, nfe):
    sde, points = EDM(), (nfe + 1) // 2 if cls is Heun else nfe
    with jax.enable_x64(True):
        x = jnp.linspace(-160.0, 160.0, 101)[:, None]
        ts = grids.karras(sde, points - 1, end=0.002 / 80)
        end = sample(jax.random.key(0), cls(), Gaussian([1.0], [[0.25]]).denoiser(sde), sde, ts, x)
        error = float(jnp.max(jnp.abs(end.x - (1 + 0.5 * (x - 1) / np.hypot(0.5, 80)))))
    assert int(end.nfe) == nfe
    assert float(f"{error:.1e}") == TABLE[cls][nfe]
