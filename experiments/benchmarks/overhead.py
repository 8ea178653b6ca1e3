"""What samplers and the training step cost beyond the network.

    python -m experiments.benchmarks.overhead

The network is a U-Net of nf 32 on 32 x 32 x 3 images, batch 64, on all devices. Prints seconds per
network evaluation inside each sampler over those of the bare jitted network, and the whole training
step over the bare value and gradient of the same loss.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from samplers import (
    DDIM,
    DEIS,
    SEEDS,
    Ancestral,
    AnnealedLangevin,
    DPMpp2M,
    DPMpp3MSDE,
    DPMpp3S,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    SASolver,
    UniPC,
    grids,
)
from samplers import sample as walk

from ..configs.common import base_config
from ..measures.timing import Timing, interleaved
from ..run.build import DataFacts, Run, build
from ..run.devices import make_mesh, set_up_jax
from ..run.losses import make_loss
from ..run.placement import replicated, share
from ..state import make_train_step
from .calls import Steps, first_state, images

BATCH = 64
STEPS = 4
SAMPLERS = (
    DDIM(),
    EulerMaruyama(),
    ReverseDiffusion(),
    Ancestral(),
    Heun(),
    DPMpp3S(),
    SEEDS(),
    DPMpp2M(),
    DPMpp3MSDE(),
    DEIS(),
    UniPC(),
    SASolver(),
    PredictorCorrector(EulerMaruyama(), Langevin()),
    PredictorCorrector(DDIM(), AnnealedLangevin()),
)


def benchmark_run() -> Run:
    """Return the run whose network is measured."""
    config: ConfigDict = base_config()
    config.net = {
        "name": "UNet",
        "nf": 32,
        "ch_mult": (1, 2, 2, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (16,),
    }
    config.train.batch_size = BATCH
    return build(config, DataFacts((32, 32, 3), 256, 0, 0.5))


def sampler_candidates(run: Run, mesh) -> dict[str, Callable]:
    """Return the bare network and one short walk of each sampler, ready to be timed.

    The walks have no final denoising.
    """
    denoiser = eqx.filter_shard(run.denoiser(run.split.params), replicated(mesh))
    x = share(mesh, np.random.default_rng(0).standard_normal((BATCH, 32, 32, 3)).astype(np.float32))
    index = share(mesh, np.arange(BATCH, dtype=np.int32))
    signal = share(mesh, np.zeros(BATCH, np.float32))
    ts = grids.quadratic(run.sde, STEPS)
    key = jax.random.key(0)
    network = eqx.filter_jit(lambda net, x, signal: net(x, signal, None))
    candidates: dict[str, Callable] = {"network": lambda: network(denoiser.net, x, signal)}
    for sampler in SAMPLERS:

        def call(sampler=sampler):
            return walk(key, sampler, denoiser, run.sde, ts, x, index=index, denoise_last=False).x

        candidates[name_of(sampler)] = call
    return candidates


def name_of(sampler) -> str:
    """Return the name of a sampler's class, or of the two that a pair has."""
    if isinstance(sampler, PredictorCorrector):
        return f"{type(sampler.predictor).__name__}+{type(sampler.corrector).__name__}"
    return type(sampler).__name__


def evaluations(name: str) -> int:
    """Return the network evaluations of one timed call."""
    if name == "network":
        return 1
    calls = {"Heun": 2, "SEEDS": 2, "DPMpp3S": 3}  # network calls a step, else 1
    return STEPS * (2 if "+" in name else calls.get(name, 1))


def step_candidates(run: Run, mesh) -> dict[str, Callable]:
    """Return the bare value and gradient of the loss, and the training step."""
    loss = make_loss(run)
    state = first_state(run, mesh)
    batch = images(run, BATCH, mesh)
    bare = jax.jit(jax.value_and_grad(loss))
    params, key = jax.tree.map(jnp.copy, (state.params, state.key))  # the step donates its state
    return {
        "value and gradient": lambda: bare(params, key, batch),
        "training step": Steps(state, batch).of(make_train_step(loss, run.tx)),
    }


def main(rounds: int = 5) -> None:
    """Measure and print; `rounds`: how often each candidate is timed."""
    set_up_jax()
    run = benchmark_run()
    mesh = make_mesh(BATCH)
    count = sum(p.size for p in jax.tree.leaves(run.split.params))
    where = f"{mesh.size} {jax.default_backend()} device(s)"
    print(
        f"U-Net of {count:,} parameters, 32 x 32 x 3, batch {BATCH}, {where}, {rounds} rounds",
        flush=True,
    )
    times = interleaved(sampler_candidates(run, mesh), rounds)
    base = times["network"].median
    print("\n| | s per network evaluation | over the bare network |\n|---|---|---|")
    for name, timing in times.items():
        n = evaluations(name)
        print(
            f"| {name} | {timing.median / n:.4f} ± {timing.quartile_deviation / n:.4f} | "
            f"{timing.median / n / base:.3f} |"
        )
    steps: dict[str, Timing] = interleaved(step_candidates(run, mesh), rounds)
    base = steps["value and gradient"].median
    print("\n| | s | over the bare value and gradient |\n|---|---|---|")
    for name, timing in steps.items():
        print(
            f"| {name} | {timing.median:.4f} ± {timing.quartile_deviation:.4f} | "
            f"{timing.median / base:.3f} |"
        )


if __name__ == "__main__":
    main()
