"""Run the parts one after the other, each for as long as its limit allows.

python -m experiments.benchmarks.accelerator --out=DIR          # about 25 minutes on one H100
python -m experiments.benchmarks.accelerator --out=DIR --tiny   # tries the script on a CPU

The cheapest and most telling parts come first. Fewer --parts take less time.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from .options import parse
from .records import Records, gather

PLAN: dict[str, tuple[str, int]] = {
    "ceilings": ("ceilings", 60),
    "correctness": ("correctness", 300),
    "ddpmpp": ("throughput --network=DDPM++ --mode=bfloat16 --batch=512 --profile", 150),
    "ddpmpp-torch": ("beside --network=DDPM++ --mode=bfloat16 --batch=512", 180),
    "dit": ("throughput --network=DiT-B/2 --mode=bfloat16 --batch=512 --profile", 80),
    "dit-fused": (
        "throughput --network=DiT-B/2-fused --mode=bfloat16 --batch=512 --profile",
        120,
    ),
    "restoration": ("restoration --network=DDPM++ --mode=bfloat16 --batch=64", 240),
    "dit-torch": ("beside --network=DiT-B/2 --mode=bfloat16 --batch=512", 120),
    "rewritings": ("rewritings", 170),
    "ncsnpp": ("throughput --network=NCSN++ --mode=bfloat16 --batch=512", 180),
    "ddpmpp-tf32": ("throughput --network=DDPM++ --mode=tf32 --batch=128", 180),
    "ddpmpp-tf32-torch": ("beside --network=DDPM++ --mode=tf32 --batch=128", 180),
    "ddpmpp-128": ("throughput --network=DDPM++ --mode=bfloat16 --batch=128", 180),
    "ddpmpp-float32": ("throughput --network=DDPM++ --mode=float32 --batch=128", 180),
}


def main() -> None:
    """Run the parts that the command line names, and gather the results after each."""

    def more(parser):
        parser.add_argument("--parts", nargs="*", choices=list(PLAN), default=list(PLAN))
        parser.add_argument("--budget", type=float, default=1500, help="seconds in all")

    options = parse(__doc__, more)
    records = Records(options.out)
    start = time.monotonic()
    for part in options.parts:
        command, limit = PLAN[part]
        left = options.budget - (time.monotonic() - start)
        if command.startswith("beside") and importlib.util.find_spec("torch") is None:
            records.add("parts", name=part, outcome="no PyTorch")
        elif left < 10:
            records.add("parts", name=part, outcome="no time left")
        else:
            outcome, seconds = _run(command, min(limit, left), options)
            records.add("parts", name=part, outcome=outcome, seconds=seconds)
        gather(Path(options.out))
    print(f"results in {options.out}")


def _run(command: str, limit: float, options) -> tuple[str, float]:
    """Run a part in a process of its own; return how it ended, and its seconds.

    So it starts with all memory, and cannot take others down.
    """
    module, *flags = command.split()
    if options.tiny:
        sized = module not in ("ceilings", "correctness")
        flags = [flag for flag in flags if not flag.startswith("--batch")]
        flags += ["--tiny", "--batch=8"] if sized else ["--tiny"]
    call = [
        sys.executable,
        "-m",
        f"{__package__}.{module}",
        f"--out={options.out}",
        f"--rounds={options.rounds}",
    ]
    print(f"\n{module} {' '.join(flags)}", flush=True)
    start = time.monotonic()
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    try:
        code = subprocess.run([*call, *flags], timeout=limit, env=environment).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s", limit
    return "done" if code == 0 else f"failed with exit code {code}", time.monotonic() - start


if __name__ == "__main__":
    main()
