"""Stochastic samplers of k-diffusion and diffusers on the exact scores of our problems.

They run where they are installed (the extra `compare`).
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

K_DIFFUSION = {  # function: network calls a step
    "sample_euler_ancestral": 1,
    "sample_dpm_2_ancestral": 2,
    "sample_dpmpp_2s_ancestral": 2,
    "sample_dpmpp_sde": 2,
    "sample_dpmpp_2m_sde": 1,
    "sample_dpmpp_3m_sde": 1,
}
DIFFUSERS = {  # name: class and settings
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "SDE-DPM-Solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "SDE-DPM-Solver++, karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "SDE-DPM-Solver++, log-SNR": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_lu_lambdas": True},
    ),
    "SA-Solver": ("SASolverScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
}


def stochastic(
    problem: Any, nfe: int
) -> dict[tuple[str, str], Callable[[int], tuple[np.ndarray, int]]]:
    """Return the samplers that can be run, as functions of the seed.

    Each name starts with that of its library and a colon.
    """
    samplers: dict[tuple[str, str], Callable] = {}
    if problem.ends_clean and find_spec("k_diffusion"):
        for name, calls in K_DIFFUSION.items():
            title = f"k-diffusion: {name.removeprefix('sample_')}"
            samplers[title, "karras"] = partial(by_k_diffusion, problem, name, nfe, calls)
    if not problem.ends_clean and find_spec("diffusers"):
        for name in DIFFUSERS:
            samplers[f"diffusers: {name}", "its own"] = partial(by_diffusers, problem, name, nfe)
    return samplers


def start(seed: int):
    """Return seeded standard normal numbers (50,000, 2)."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    return torch.randn(50_000, 2)


def by_k_diffusion(
    problem: Any, name: str, nfe: int, calls: int, seed: int
) -> tuple[np.ndarray, int]:
    """Return samples by one function of k-diffusion from sigma = 80 to 0 on EDM's grid."""
    import torch  # pyright: ignore[reportMissingImports]
    from k_diffusion import sampling  # pyright: ignore[reportMissingImports]

    estimate = jax.jit(lambda x, t: problem.data.estimate(problem.sde, x, t).x0)
    evaluations = 0

    def model(x, sigma, **_):
        nonlocal evaluations
        evaluations += 1
        return torch.from_numpy(np.array(estimate(x.numpy(), np.float32(sigma[0] / 80))))

    sigmas = sampling.get_sigmas_karras(nfe // calls, 0.002, 80.0)
    x = getattr(sampling, name)(model, 80 * start(seed), sigmas, disable=True)
    return x.double().numpy(), evaluations


def by_diffusers(problem: Any, name: str, nfe: int, seed: int) -> tuple[np.ndarray, int]:
    """Return samples by one scheduler of diffusers, on its own 1000 noise levels of VP."""
    import diffusers  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    kind, settings = DIFFUSERS[name]
    scheduler = getattr(diffusers, kind)(**settings)
    scheduler.set_timesteps(nfe)
    signal = scheduler.alphas_cumprod.double().numpy()
    sde = problem.sde
    estimate = jax.jit(lambda x, t: problem.data.estimate(sde, x, t).noise)
    x = start(seed) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        square = np.interp(float(t), np.arange(len(signal)), signal)
        time = np.float32(sde.time(jnp.asarray(np.log(square / (1 - square)), jnp.float32)))
        noise = torch.from_numpy(np.array(estimate(scaled.numpy(), time)))
        x = scheduler.step(noise, t, x).prev_sample
    return x.double().numpy(), nfe
