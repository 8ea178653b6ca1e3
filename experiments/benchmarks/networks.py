"""What a network costs beside PyTorch: DDPM++ on 32 x 32 x 3 images, on the CPU.

    python -m experiments.benchmarks.networks --small    # nf 32, 1.75 M parameters, batches 8, 64
    python -m experiments.benchmarks.networks --large    # 61.8 M parameters, batch 8

Times forward pass and training step, and prints seconds and their ratio to PyTorch's, if that is
installed. Candidates take turns, so that what else the machine does meets all alike. What they cost
beside the peak of the machine, their memory and their compilation: `throughput`.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable

import jax

from ..configs.common import base_config
from ..measures.timing import interleaved
from ..run.build import DataFacts, Run, build
from ..run.devices import make_mesh, set_up_jax
from .calls import forward, training

SHAPE = (32, 32, 3)
SMALL = {"nf": 32, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 1, "attn_resolutions": (16,)}
LARGE = {"nf": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attn_resolutions": (16,)}


def make_run(settings: dict) -> Run:
    """Return the run whose network is measured."""
    config = base_config()
    config.net = {"name": "UNet", "embedding": "positional", "dropout": 0.1, **settings}
    config.denoiser.update({"prediction": "noise", "inputs": "time"})
    return build(config, DataFacts(SHAPE, 256, 0, 0.5))


def ours(run: Run, batch: int) -> dict[str, Callable]:
    """Return forward and training step of ours, on all devices."""
    mesh = make_mesh(batch)
    return {"forward": forward(run, batch, mesh), "step": training(run, batch, mesh)}


def pytorch(settings: dict, batch: int) -> dict[str, Callable]:
    """Return forward pass and training step of the same network in PyTorch, on the CPU."""
    import torch  # pyright: ignore[reportMissingImports]

    from .torch_calls import torch_calls
    from .torch_unet import UNet

    net = UNet(SHAPE[0], SHAPE[2], dropout=0.1, **settings)
    x = torch.rand(batch, SHAPE[2], *SHAPE[:2]) * 2 - 1
    t = torch.linspace(10, 990, batch)
    return torch_calls(net, x, t)


def main() -> None:
    """Measure the networks that the command line names, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--batch", type=int, nargs="*", help="instead of 8 and 64 (small), 8 (large)"
    )
    arguments = parser.parse_args()
    set_up_jax()
    beside = importlib.util.find_spec("torch") is not None
    if beside:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name, settings, batches in (("small", SMALL, (8, 64)), ("large", LARGE, (8,))):
        if getattr(arguments, name) or not (arguments.small or arguments.large):
            for batch in arguments.batch or batches:
                print_costs(settings, batch, arguments.rounds, beside)


def print_costs(settings: dict, batch: int, rounds: int, beside: bool) -> None:
    """Measure one network at one batch size, and print. `beside`: time PyTorch too."""
    run = make_run(settings)
    count = sum(p.size for p in jax.tree.leaves(run.split.params))
    print(
        f"\n{count:,} parameters, batch {batch}, {jax.device_count()} {jax.default_backend()} "
        "device(s); compiling ...",
        flush=True,
    )
    candidates = {f"ours, {k}": call for k, call in ours(run, batch).items()}
    if beside:
        candidates |= {f"PyTorch, {k}": call for k, call in pytorch(settings, batch).items()}
    times = interleaved(candidates, rounds)
    print("\n| | s | over PyTorch |\n|---|---|---|")
    for name, timing in times.items():
        kind = name.split(", ")[1]
        ratio = f"{timing.median / times[f'PyTorch, {kind}'].median:.2f}" if beside else "-"
        print(
            f"| {name} | {timing.median:.4f} ± {timing.quartile_deviation:.4f} | {ratio} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
