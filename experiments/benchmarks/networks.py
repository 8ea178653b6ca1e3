"""What a network costs: DDPM++ on 32 x 32 x 3 images, forward and training step, beside the same network in PyTorch if that is installed.

    python -m experiments.benchmarks.networks --small                   # nf 32, 1.75 M parameters, batches of 8 and 64
    python -m experiments.benchmarks.networks --large                   # 61.8 M parameters, batch 8

Prints seconds, their ratio to PyTorch's, compile seconds (cold, and from the persistent cache), peak memory and the rate of arithmetic;
on a GPU that rate over its peak with --peak=TFLOPS. Candidates take turns, so that what else the machine does meets all alike.
"""

import argparse
import importlib.util
import os
import resource
import time
from collections.abc import Callable

import jax
import numpy as np

from ..configs.common import base_config
from ..measures.timing import interleaved
from ..run.build import Facts, Run, build, flops
from ..run.devices import make_mesh, replicated, set_up_jax, share
from ..run.losses import make_loss
from ..state import init_state, make_train_step

SHAPE = (32, 32, 3)
SMALL = {"nf": 32, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 1, "attn_resolutions": (16,)}
LARGE = {"nf": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attn_resolutions": (16,)}


def make_run(settings: dict) -> Run:
    """Return the run whose network is measured."""
    config = base_config()
    config.net = {"name": "UNet", "embedding": "positional", "dropout": 0.1, **settings}
    config.denoiser.update({"prediction": "noise", "inputs": "time"})
    return build(config, Facts(SHAPE, 256, 0, 0.5))


def ours(run: Run, batch: int) -> dict[str, Callable]:
    """Return forward and training step of ours, on all devices."""
    mesh = make_mesh(batch)
    x = share(mesh, np.random.default_rng(0).uniform(-1, 1, (batch, *SHAPE)).astype(np.float32))
    data = {"x": x, "label": share(mesh, np.zeros(batch, np.int32))}
    params, t = (
        jax.device_put(run.split.params, replicated(mesh)),
        share(mesh, np.linspace(0.01, 0.99, batch, dtype=np.float32)),
    )
    forward = jax.jit(lambda params, x, t: run.denoiser(params).output(x, t))
    step = make_train_step(make_loss(run), run.tx)
    state = [
        jax.device_put(init_state(jax.random.key(0), run.split.params, run.tx), replicated(mesh))
    ]

    def train():
        state[0], metrics = step(state[0], data)
        return metrics

    return {"forward": lambda: forward(params, x, t), "step": train}


def pytorch(settings: dict, batch: int) -> dict[str, Callable]:
    """Return forward and training step of the same network in PyTorch, with Adam, clipping and a moving average as ours."""
    import torch  # pyright: ignore[reportMissingImports]

    from .torch_unet import UNet

    net = UNet(SHAPE[0], SHAPE[2], dropout=0.1, **settings)
    average = [p.detach().clone() for p in net.parameters()]
    adam = torch.optim.Adam(net.parameters(), 2e-4)
    x, t = torch.rand(batch, SHAPE[2], *SHAPE[:2]) * 2 - 1, torch.linspace(10, 990, batch)

    def forward():
        net.eval()
        with torch.no_grad():
            return net(x, t).numpy()

    def train():
        net.train()
        noise = torch.randn_like(x)
        loss = ((net(0.7 * x + 0.7 * noise, t) - noise) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1e-4)  # pyright: ignore[reportPrivateImportUsage]
        return loss.detach().numpy()

    return {"forward": forward, "step": train}


def compile_seconds(run: Run, batch: int) -> tuple[float, float]:
    """Return the seconds until the first training step has run: as it is now, and again from the persistent cache."""

    def once() -> float:
        jax.clear_caches()
        start = time.perf_counter()
        jax.block_until_ready(ours(run, batch)["step"]())
        return time.perf_counter() - start

    return once(), once()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=float, help="peak rate of the accelerator, TFLOP/s")
    parser.add_argument(
        "--batch", type=int, nargs="*", help="instead of 8 and 64 (small), 8 (large)"
    )
    asked = parser.parse_args()
    set_up_jax()
    beside = importlib.util.find_spec("torch") is not None
    if beside:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name, settings, batches in (("small", SMALL, (8, 64)), ("large", LARGE, (8,))):
        if getattr(asked, name) or not (asked.small or asked.large):
            for batch in asked.batch or batches:
                measure(settings, batch, asked.rounds, asked.peak, beside)
    print(
        f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )


def measure(settings: dict, batch: int, rounds: int, peak: float | None, beside: bool) -> None:
    """Measure one network at one batch size, and print."""
    run = make_run(settings)
    count, operations = (
        sum(p.size for p in jax.tree.leaves(run.split.params)),
        (flops(run) or np.nan) * batch,
    )
    print(
        f"\n{count:,} parameters, batch {batch}, {jax.device_count()} {jax.default_backend()} device(s); compiling ...",
        flush=True,
    )
    cold, warm = compile_seconds(run, batch)
    print(f"first step after {cold:.1f} s, and {warm:.1f} s from the persistent cache", flush=True)
    candidates = {f"ours, {k}": call for k, call in ours(run, batch).items()}
    if beside:
        candidates |= {f"PyTorch, {k}": call for k, call in pytorch(settings, batch).items()}
    times = interleaved(candidates, rounds)
    print("\n| | s | over PyTorch | GFLOP/s |\n|---|---|---|---|")
    for name, timing in times.items():
        kind = name.split(", ")[1]
        ratio = f"{timing.median / times[f'PyTorch, {kind}'].median:.2f}" if beside else "-"
        rate = (
            operations * (1 if kind == "forward" else 3) / timing.median / 1e9
        )  # the gradient costs twice the forward pass
        share_of_peak = f" ({rate / peak / 10:.1f} % of peak)" if peak else ""
        print(
            f"| {name} | {timing.median:.4f} ± {timing.spread:.4f} | {ratio} | {rate:.0f}{share_of_peak} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
