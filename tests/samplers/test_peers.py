"""Equal to diffusers and k-diffusion at equal noise levels, where they are installed; they need not be.

k-diffusion runs in float64 and has to agree to 1e-8. Diffusers takes its coefficients from float32: 1e-5 of the largest number. Each is
given our noise levels sigma / alpha, the exact noise of the same curved problem, and for stochastic solvers the same draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from samplers import DEIS, DPM2, LMS, DPMpp2M, DPMpp2MSDE, DPMpp3M, DPMSolverM, Heun, UniPC
from sde_lib import SDE, VP
from tests.samplers.eager import supply, walk
from tests.samplers.test_mixture import estimate

torch = pytest.importorskip("torch")
LEVELS = np.array([40.0, 17.0, 9.0, 3.0, 1.2, 0.5, 0.3, 0.07])
X = np.linspace(-2.0, 2.0, 9)[:, None]


class Level(SDE):
    """The variance exploding process whose time is the noise level, over 80."""

    def marginal(self, t):
        return jnp.ones_like(t), 80 * t


def by_k_diffusion(function, **settings):
    sampling = pytest.importorskip("k_diffusion").sampling

    def model(x, sigma, **_):
        return torch.from_numpy(np.asarray(estimate(x.numpy(), 1.0, float(sigma[0])).x0))

    start = torch.from_numpy(LEVELS[0] * X)
    return getattr(sampling, function)(
        model, start, torch.from_numpy(LEVELS), disable=True, **settings
    ).numpy()


@pytest.mark.parametrize(
    ("sampler", "function"),
    [
        (Heun(), "sample_heun"),
        (DPM2(), "sample_dpm_2"),
        (LMS(), "sample_lms"),
        (DPMpp2M(), "sample_dpmpp_2m"),
    ],
    ids=lambda v: str(v),
)
def test_deterministic_solvers_of_k_diffusion(sampler, function):
    with jax.enable_x64(True):
        result = walk(sampler, Level(t_min=0.0), LEVELS / 80, LEVELS[0] * X, estimate)
    np.testing.assert_allclose(
        result, by_k_diffusion(function), rtol=2e-4 if function == "sample_lms" else 1e-8
    )  # its quadrature: 1e-4


def test_a_stochastic_solver_of_k_diffusion(monkeypatch):
    ours, theirs = (np.random.default_rng(1) for _ in range(2))
    supply(monkeypatch, lambda like: ours.standard_normal(like.shape))
    expected = by_k_diffusion(
        "sample_dpmpp_2m_sde",
        noise_sampler=lambda a, b: torch.from_numpy(theirs.standard_normal(X.shape)),
    )
    with jax.enable_x64(True):
        result = walk(DPMpp2MSDE(), Level(t_min=0.0), LEVELS / 80, LEVELS[0] * X, estimate)
    np.testing.assert_allclose(result, expected, rtol=1e-8)


DATA = {
    "algorithm_type": "dpmsolver++",
    "final_sigmas_type": "sigma_min",
}  # else the last step is of first order
NOISE = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}


def by_diffusers(name, **settings):
    scheduler = getattr(pytest.importorskip("diffusers"), name)(lower_order_final=False, **settings)
    scheduler.set_timesteps(len(LEVELS) - 1)
    scheduler.sigmas = torch.from_numpy(LEVELS)
    alpha = (1 + LEVELS**2) ** -0.5
    x = torch.from_numpy(X)
    for i, t in enumerate(scheduler.timesteps):
        noise = estimate(x.numpy(), alpha[i], alpha[i] * LEVELS[i]).noise
        x = scheduler.step(torch.from_numpy(np.asarray(noise)), t, x).prev_sample
    return x.numpy()


@pytest.mark.filterwarnings("ignore:.*algorithm_type.*:FutureWarning")
@pytest.mark.parametrize(
    ("sampler", "name", "settings"),
    [
        *(
            (sampler, "DPMSolverMultistepScheduler", {**DATA, "solver_order": i})
            for i, sampler in ((2, DPMpp2M()), (3, DPMpp3M()))
        ),
        *(
            (DPMSolverM(i), "DPMSolverMultistepScheduler", {**NOISE, "solver_order": i})
            for i in (2, 3)
        ),
        (DEIS(order=2), "DEISMultistepScheduler", {"solver_order": 2}),
        (DEIS(order=3), "DEISMultistepScheduler", {"solver_order": 3}),
        *(
            (
                UniPC(predictor_order=p, variant=b),
                "UniPCMultistepScheduler",
                {"solver_order": p, "solver_type": b},
            )
            for p in (1, 2, 3)
            for b in ("bh1", "bh2")
        ),
    ],
    ids=lambda v: str(v),
)
def test_solvers_of_diffusers(sampler, name, settings):
    sde = VP()
    with jax.enable_x64(True):
        ts = np.asarray(sde.time(jnp.asarray(-2 * np.log(LEVELS))))
        result = walk(sampler, sde, ts, X, estimate)
    expected = by_diffusers(name, **settings)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
