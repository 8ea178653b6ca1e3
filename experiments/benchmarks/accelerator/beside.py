"""The same networks in PyTorch on the same device: compiled, channels last, in autocast; forward pass and training step.

python -m experiments.benchmarks.accelerator.beside --network=DDPM++ --mode=bfloat16 --batch=512 --out=DIR
"""

import contextlib
import fcntl
import time
from collections.abc import Callable

import torch  # pyright: ignore[reportMissingImports]

from ...configs.score_sde import CIFAR
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


def main() -> None:
    """Measure one network, and store."""

    def more(parser):
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

    options = parse(__doc__, more)
    records = Records(options.out)
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    torch.set_float32_matmul_precision("high" if options.mode == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = options.mode == "tf32"
    net = (SMALL if options.tiny else BUILDERS)[options.network]().to(device)
    if options.network == "DDPM++":
        net = net.to(memory_format=torch.channels_last)
    call_net = net if options.eager else torch.compile(net)
    adam = torch.optim.Adam(net.parameters(), 2e-4, fused=cuda)
    weights = [p for p in net.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in weights]
    size = 16 if options.tiny else 32
    x = torch.randn(options.batch, 3, size, size, device=device).tanh()
    x = x.contiguous(memory_format=torch.channels_last)
    t = torch.linspace(10, 990, options.batch, device=device)

    def types():
        if options.mode == "bfloat16":
            return torch.autocast(device, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def forward():
        net.eval()
        with torch.no_grad(), types():
            return call_net(x, t)

    def train():
        net.train()
        noise = torch.randn_like(x)
        with types():
            loss = ((call_net(0.7 * x + 0.7 * noise, t) - noise) ** 2).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1e-4)  # pyright: ignore[reportPrivateImportUsage]
        return loss

    def wait(_result):
        if cuda:
            torch.cuda.synchronize()

    calls = {"step": train, "forward": forward}
    calls = {what: calls[what] for what in options.only}
    first = {}
    for what, call in calls.items():
        start = time.perf_counter()
        wait(call())
        first[what] = time.perf_counter() - start
    torch.backends.cudnn.benchmark = True  # which chooses algorithms at the next call
    lock = open(options.alone, "w") if options.alone else None  # until the process ends
    if lock is not None:
        fcntl.flock(lock, fcntl.LOCK_EX)
    for what, call in calls.items():
        seconds, spread = seconds_each(call, options.rounds, wait)
        records.add(
            "PyTorch",
            version=torch.__version__,
            compiled=not options.eager,
            network=options.network,
            mode=options.mode,
            batch=options.batch,
            what=what,
            seconds=seconds,
            spread=spread,
            images_per_second=options.batch / seconds,
            first_call_seconds=first[what],
            peak_gib=torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0,
        )


if __name__ == "__main__":
    main()
