"""The same networks in PyTorch on the same device: compiled, channels last, in autocast.

The forward pass and the training step are timed.

python -m experiments.benchmarks.accelerator.beside --network=DDPM++ --mode=bfloat16 \\
    --batch=512 --out=DIR
"""

import argparse
import contextlib
import fcntl
import time
from collections.abc import Callable

import torch  # pyright: ignore[reportMissingImports]

from ...configs.score_sde import CIFAR
from ..torch_calls import torch_calls
from ..torch_dit import DiT
from ..torch_unet import UNet
from .options import parse
from .records import Records
from .stopwatch import seconds_each

BUILDERS: dict[str, Callable] = {
    "DDPM++": lambda: UNet(32, 3, dropout=0.1, **CIFAR),
    "DiT-B/2": lambda: DiT(32, 3, patch=2, width=768, depth=12, heads=12),
}
SMALL: dict[str, Callable] = {
    "DDPM++": lambda: UNet(16, 3, 16, (1, 2), 1, (8,), 0.1),
    "DiT-B/2": lambda: DiT(16, 3, patch=2, width=32, depth=2, heads=2),
}

CALLS = ("step", "forward")


CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def main() -> None:
    """Measure one network, and store."""
    options = parse(__doc__, _add_flags)
    records = Records(options.out)
    torch.set_float32_matmul_precision("high" if options.mode == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = options.mode == "tf32"
    calls = _calls(options)
    first = {what: _first_call_seconds(calls[what]) for what in options.only}
    torch.backends.cudnn.benchmark = True  # which chooses algorithms at the next call
    lock = open(options.alone, "w") if options.alone else None  # until the process ends
    if lock is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
    for what in options.only:
        timing = seconds_each(calls[what], options.rounds, _wait)
        records.add(
            "PyTorch",
            version=torch.__version__,
            compiled=not options.eager,
            network=options.network,
            mode=options.mode,
            batch=options.batch,
            what=what,
            seconds=timing.median,
            spread=timing.quartile_deviation,
            images_per_second=options.batch / timing.median,
            first_call_seconds=first[what],
            peak_gib=torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0,
        )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this part."""
    parser.add_argument("--network", choices=list(BUILDERS), default="DDPM++")
    parser.add_argument("--mode", choices=("bfloat16", "tf32", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--alone", help="a file; time only while nobody else holds its lock, as flock does"
    )
    parser.add_argument(
        "--only", nargs="*", choices=CALLS, default=list(CALLS), help="what to measure"
    )
    parser.add_argument("--eager", action="store_true", help="without torch.compile")


def _calls(options: argparse.Namespace) -> dict[str, Callable]:
    """Return the training step and the forward pass of the network that the options name."""
    net = (SMALL if options.tiny else BUILDERS)[options.network]().to(DEVICE)
    if options.network == "DDPM++":
        net = net.to(memory_format=torch.channels_last)
    size = 16 if options.tiny else 32
    x = torch.randn(options.batch, 3, size, size, device=DEVICE).tanh()
    x = x.contiguous(memory_format=torch.channels_last)
    t = torch.linspace(10, 990, options.batch, device=DEVICE)

    def types():
        if options.mode == "bfloat16":
            return torch.autocast(DEVICE, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    compiled = None if options.eager else torch.compile(net)
    return torch_calls(net, x, t, compiled=compiled, types=types, fused=CUDA)


def _wait(_result: object) -> None:
    """Wait until the device has done all work."""
    if CUDA:
        torch.cuda.synchronize()


def _first_call_seconds(call: Callable) -> float:
    """Return the seconds of a first call, which compiles."""
    start = time.perf_counter()
    _wait(call())
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
