"""What networks, samplers and likelihoods must answer: computed in float64 on a CPU, and stored.

python -m experiments.benchmarks.accelerator.answers        # computes and stores them again
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import models
from samplers import (
    DDIM,
    DEIS,
    DPMpp2M,
    Heun,
    UniPC,
    grids,
    log_likelihood,
    probability_flow,
    sample,
)
from sde_lib import EDM, VP, GaussianMixture

from .subjects import BFLOAT16_ONLY, NETWORKS, make_run, numbers_for

STORED = Path(__file__).parent.parent / "results" / "answers.npz"
STEPS = 12
DETERMINISTIC = {
    "DDIM": DDIM(),
    "Heun": Heun(),
    "DPMpp2M": DPMpp2M(),
    "DEIS": DEIS(),
    "UniPC": UniPC(),
}


def questions(mode: str) -> dict[str, Callable[[], jax.Array]]:
    """Return the computations that have an answer, by name.

    Each computes in float64 where x64 is on, in float32 otherwise.
    """
    calls: dict[str, Callable[[], jax.Array]] = {}
    for network in NETWORKS:
        if network in BFLOAT16_ONLY and mode != "bfloat16":
            continue
        calls[f"network {network}"] = partial(_network, network, mode)
        calls[f"gradient of network {network}"] = partial(_gradient, network, mode)
    calls["walk through a network"] = partial(_walk_of_network, mode)
    calls["divergence of a network"] = partial(_divergence, mode)
    for name, sampler in DETERMINISTIC.items():
        calls[f"walk {name}"] = partial(_walk, sampler)
    calls["walk probability_flow"] = _adaptive
    calls["likelihood of a mixture"] = _likelihood
    return calls


def _normal(seed: int, *shape: int) -> jax.Array:
    """Return standard normal numbers that are the same on every machine."""
    wide = jnp.result_type(float)  # float64 where x64 is on
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), wide)


def _denoiser(network: str, mode: str, **settings):
    """Return a run of a small network, and its denoiser."""
    run = make_run(network, mode, tiny=True, **settings)
    wide = jnp.result_type(float)
    params = jax.tree.map(lambda p: jnp.asarray(p, wide), numbers_for(run.split.params))
    return run, run.denoiser(params)


def _network(network: str, mode: str) -> jax.Array:
    """Return the output of a network."""
    _, denoiser = _denoiser(network, mode)
    x = _normal(1, 4, 16, 16, 3)
    t = jnp.asarray([0.01, 0.2, 0.5, 0.9], jnp.result_type(float))
    return eqx.filter_jit(lambda denoiser: denoiser.output(x, t))(denoiser)


def _gradient(network: str, mode: str) -> jax.Array:
    """Return the product of each parameter's gradient in training with fixed numbers.

    Dropout is switched off, for its draws differ by type.
    """
    run, denoiser = _denoiser(network, mode, dropout=0.0)
    directions = numbers_for(run.split.params, seed=1)

    @jax.jit
    def products(params, x, c_noise, probe):
        def loss(params):
            return jnp.sum(probe * models.merge(run.split.train, params)(x, c_noise))

        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda g, direction: jnp.sum(g * direction), gradient, directions)

    x = _normal(1, 4, 16, 16, 3)
    probe = _normal(8, 4, 16, 16, 3)
    c_noise = jnp.asarray([0.01, 0.2, 0.5, 0.9], jnp.result_type(float))
    return jnp.stack(jax.tree.leaves(products(denoiser.net.params, x, c_noise, probe)))


def _walk_of_network(mode: str) -> jax.Array:
    """Return the ends of a walk with a network."""
    run, denoiser = _denoiser("DDPM++", mode)
    return sample(
        jax.random.key(0),
        DPMpp2M(),
        denoiser,
        run.sde,
        grids.log_snr(run.sde, STEPS),
        _normal(2, 2, 16, 16, 3),
    ).x


def _divergence(mode: str) -> jax.Array:
    """Return what a likelihood integrates: a fixed probe times the Jacobian of the denoiser."""
    _, denoiser = _denoiser("DiT-B/2", mode)
    x = _normal(3, 2, 16, 16, 3)
    t = jnp.full(2, 0.4, jnp.result_type(float))
    probe = _normal(4, 2, 16, 16, 3)

    @eqx.filter_jit
    def product(denoiser):
        return jax.jvp(lambda x: denoiser(x, t).x0, (x,), (probe,))[1]

    along = product(denoiser)
    return jnp.sum(probe * along, axis=(1, 2, 3))


def _mixture() -> GaussianMixture:
    """Return a mixture in three dimensions."""
    means = np.array([[2.0, 0.0, -1.0], [-1.5, 1.0, 0.5], [0.0, -2.0, 1.0]])
    covs = [scale * np.eye(3) + 0.05 for scale in (0.3, 0.1, 0.6)]
    return GaussianMixture([0.5, 0.2, 0.3], means, covs)


def _walk(sampler) -> jax.Array:
    """Return the ends of a sampler's walk on a mixture."""
    sde = VP()
    start = _normal(5, 64, 3)
    ts = grids.log_snr(sde, STEPS)
    return sample(jax.random.key(0), sampler, _mixture().denoiser(sde), sde, ts, start).x


def _adaptive() -> jax.Array:
    """Return the ends of the probability flow of a mixture, by adaptive steps."""
    sde = EDM()
    start = 80.0 * _normal(6, 64, 3)
    return probability_flow(_mixture().denoiser(sde), sde, start, rtol=1e-5, atol=1e-5).x


def _likelihood() -> jax.Array:
    """Return the likelihoods of points under a mixture."""
    sde = VP()
    x = _normal(7, 16, 3)
    return log_likelihood(jax.random.key(0), _mixture().denoiser(sde), sde, x).log_prob


def main() -> None:
    """Compute the answers on the CPU, and store them."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    answers: Any = {name: np.asarray(call()) for name, call in questions("float32").items()}
    for answer in answers.values():
        assert answer.dtype == np.float64 and np.isfinite(answer).all()
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **answers)
    print(f"{len(answers)} answers in {STORED.name}, {STORED.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
