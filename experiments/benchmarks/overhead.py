"""What samplers and the training step cost beyond the network: U-Net nf 32 on 32 x 32 x 3 images, batch 64, on all devices.

    python -m experiments.benchmarks.overhead

Prints seconds per network evaluation inside each sampler over those of the bare jitted network, the whole training step over the bare
value and gradient of the same loss, compile seconds and peak memory.
"""

import resource
import tempfile
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
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
from ..run.build import Facts, Run, build
from ..run.devices import make_mesh, replicated, set_up_jax, share
from ..run.losses import make_loss
from ..state import init_state, make_train_step

BATCH, STEPS = 64, 4
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
    return build(config, Facts((32, 32, 3), 256, 0, 0.5))


def sampler_candidates(run: Run, mesh) -> dict[str, Callable]:
    """Return the bare network and one short walk of each sampler, without the final denoising, all ready to be timed."""
    denoiser = eqx.filter_shard(run.denoiser(run.split.params), replicated(mesh))
    x = share(mesh, np.random.default_rng(0).standard_normal((BATCH, 32, 32, 3)).astype(np.float32))
    index, ts, signal = (
        share(mesh, np.arange(BATCH, dtype=np.int32)),
        grids.quadratic(run.sde, STEPS),
        share(mesh, np.zeros(BATCH, np.float32)),
    )
    network = eqx.filter_jit(lambda net, x, signal: net(x, signal, None))
    candidates: dict[str, Callable] = {"network": lambda: network(denoiser.net, x, signal)}
    for sampler in SAMPLERS:
        candidates[name_of(sampler)] = lambda s=sampler: walk(
            jax.random.key(0), s, denoiser, run.sde, ts, x, index=index, denoise_last=False
        ).x  # fmt: skip
    return candidates


def name_of(sampler) -> str:
    """Return a short name."""
    if isinstance(sampler, PredictorCorrector):
        return f"{type(sampler.predictor).__name__}+{type(sampler.corrector).__name__}"
    return type(sampler).__name__


def evaluations(name: str) -> int:
    """Return the network evaluations of one timed call."""
    calls = {"Heun": 2, "SEEDS": 2, "DPMpp3S": 3}  # network calls a step, else 1
    return STEPS * (2 if "+" in name else calls.get(name, 1)) if name != "network" else 1


def training(run: Run, mesh) -> tuple:
    """Return a state, a batch, the training step and its loss function."""
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.uniform(-1, 1, (BATCH, 32, 32, 3)).astype(np.float32),
        "label": np.zeros(BATCH, np.int32),
    }
    loss_fn, state = make_loss(run), init_state(jax.random.key(1), run.split.params, run.tx)
    return (
        jax.device_put(state, replicated(mesh)),
        share(mesh, batch),
        make_train_step(loss_fn, run.tx),
        loss_fn,
    )


def step_candidates(run: Run, mesh) -> dict[str, Callable]:
    """Return the bare value and gradient of the loss, and the training step."""
    first, batch, step, loss_fn = training(run, mesh)
    bare, state = jax.jit(jax.value_and_grad(loss_fn)), [first]
    params, key = jax.tree.map(jnp.copy, (first.params, first.key))  # the step donates its state

    def whole():
        state[0], metrics = step(state[0], batch)
        return metrics

    return {"value and gradient": lambda: bare(params, key, batch), "training step": whole}


def compile_seconds(run: Run, mesh) -> tuple[float, float]:
    """Return the seconds from Python to a compiled training step: cold, then warm from the persistent cache that this left."""
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as folder:
        _keep_programs_in(folder)
        seconds = _compile(run, mesh), _compile(run, mesh)
    _keep_programs_in(before)
    return seconds


def _keep_programs_in(folder: str) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def _compile(run: Run, mesh) -> float:
    jax.clear_caches()
    state, batch, step, _ = training(run, mesh)
    start = time.perf_counter()
    step.lower(state, batch).compile()
    return time.perf_counter() - start


def main(rounds: int = 5) -> None:
    """Measure and print."""
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
            f"| {name} | {timing.median / n:.4f} ± {timing.spread / n:.4f} | {timing.median / n / base:.3f} |"
        )
    steps: dict[str, Timing] = interleaved(step_candidates(run, mesh), rounds)
    base = steps["value and gradient"].median
    print("\n| | s | over the bare value and gradient |\n|---|---|---|")
    for name, timing in steps.items():
        print(
            f"| {name} | {timing.median:.4f} ± {timing.spread:.4f} | {timing.median / base:.3f} |"
        )
    first, second = compile_seconds(run, mesh)
    print(
        f"\ncompiling the training step: {first:.1f} s cold, {second:.1f} s from the persistent cache"
    )
    print(
        f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


if __name__ == "__main__":
    main()
