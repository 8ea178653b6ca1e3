"""What training costs on this machine, beside what it could not cost less than.

    python -m experiments.benchmarks.throughput                      # four networks, each up to 20 minutes
    python -m experiments.benchmarks.throughput --network small --batch=8 --parts rates loop

Each network is measured in a process of its own that ends with its budget; results are written as
they come. The parts: `account` counts operations and bytes by hand; `memory` compiles the training
step, plain and with net.remat, and compares XLA's account of its memory with that by hand; `rates`
times step, forward pass and walk, in turn with a matrix product that stands for the device's peak;
`loop` runs --mode=train, for the share of its time that goes to input, the price of a checkpoint,
and the seconds until a second start has made its first step.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from ..accelerator.records import read_records, table
from .network import add_flags
from .subjects import SUBJECTS


def main() -> None:
    """Measure the networks that the command line names, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--budget", type=float, default=1200, help="seconds for each network")
    add_flags(parser)
    options = parser.parse_args()
    out = Path(options.out)
    out.unlink(missing_ok=True)
    for network in options.network:
        print(f"\n{network}: {measured(network, options)}", flush=True)
    records = read_records(out)
    for part in dict.fromkeys(record["part"] for record in records):
        print(f"\n{table(part, records)}")


def measured(network: str, options: argparse.Namespace) -> str:
    """Measure one network in a process of its own; say how that ended."""
    flags = [
        f"--{name}={getattr(options, name)}" for name in ("mode", "rounds", "block", "devices")
    ]
    flags += [f"--batch={options.batch}"] if options.batch else []
    flags += ["--tiny"] if options.tiny else []
    command = [sys.executable, "-m", f"{__package__}.network", f"--network={network}", *flags]
    began = time.monotonic()
    try:
        code = subprocess.run(
            [*command, f"--out={options.out}", "--parts", *options.parts], timeout=options.budget
        ).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after its {options.budget:.0f} s"
    seconds = time.monotonic() - began
    return f"{seconds:.0f} s" if code == 0 else f"failed with exit code {code}"


if __name__ == "__main__":
    main()
