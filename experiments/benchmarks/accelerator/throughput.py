"""One network in one mode at one batch size: forward pass, training step and 20 steps of sampling.

python -m experiments.benchmarks.accelerator.throughput --network=DDPM++ --mode=bfloat16 \\
    --batch=512 --out=DIR
"""

import argparse
import gzip
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from ...run.build import Run, flops
from ...run.devices import make_mesh, set_up_jax
from ...run.losses import make_loss
from ...run.profiling import newest_trace, start_trace
from ...run.step_program import memory_of
from ...state import make_train_step
from ..calls import first_state, forward, images, sampling, training
from .options import parse
from .records import LINES, Records, read_records
from .stopwatch import seconds_each
from .subjects import MODES, NETWORKS, make_run, with_numbers

STEPS = 20
# Work over that of the forward pass; a gradient costs twice of it.
TIMES_FORWARD = {"forward": 1, "step": 3, "sampling": STEPS}


def candidates(run: Run, batch: int) -> dict[str, Callable]:
    """Return forward pass, training step and sampling, ready to be called."""
    mesh = make_mesh(batch)
    return {
        "forward": forward(run, batch, mesh),
        "step": training(run, batch, mesh),
        "sampling": sampling(run, batch, mesh, STEPS),
    }


def compiled(calls: dict[str, Callable], at_once: int) -> dict[str, float]:
    """Call each once, which compiles it; return the seconds of each.

    `at_once` of them are called at the same time, as compiling keeps one core busy at most.
    """

    def first(call: Callable) -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(calls, pool.map(first, calls.values()), strict=True))


def account(run: Run, batch: int, file: Path) -> float:
    """Write the text of the compiled training step, and return the bytes that it needs.

    The bytes are those of XLA's own account.
    """
    mesh = make_mesh(batch)
    step = make_train_step(make_loss(run), run.tx)
    program = step.lower(first_state(run, mesh), images(run, batch, mesh)).compile()
    file.write_bytes(gzip.compress(program.as_text().encode()))
    memory = memory_of(program)
    return memory.total if memory else float("nan")


def profile(call: Callable, file: Path) -> None:
    """Trace three calls, and write the trace, which https://ui.perfetto.dev opens, to `file`."""
    with tempfile.TemporaryDirectory() as folder:
        start_trace(Path(folder))
        for _ in range(3):
            result = call()
        jax.block_until_ready(result)
        jax.profiler.stop_trace()
        file.write_bytes(newest_trace(Path(folder)).read_bytes())


def ceiling(folder: str, mode: str) -> float:
    """Return the measured rate of matrix products in a mode, or NaN where it was not measured."""
    kind = {"bfloat16": "bfloat16", "float32": "float32"}.get(mode, "tf32")
    for record in read_records(Path(folder) / LINES):
        if record["part"] == "ceilings" and record["what"].endswith(kind):
            return record["tflops"]
    return float("nan")


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this part."""
    parser.add_argument("--network", choices=list(NETWORKS), default="DDPM++")
    parser.add_argument("--mode", choices=list(MODES), default="bfloat16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=list(TIMES_FORWARD), help="what to measure")
    parser.add_argument("--profile", action="store_true", help="also its trace, program and memory")


def main() -> None:
    """Measure one network, and store."""
    options = parse(__doc__, _add_flags)
    set_up_jax()
    records = Records(options.out)
    run = with_numbers(make_run(options.network, options.mode, tiny=options.tiny))
    operations = (flops(run) or np.nan) * options.batch
    common = {"network": options.network, "mode": options.mode, "batch": options.batch}
    records.add(
        "networks",
        network=options.network,
        mode=options.mode,
        parameters=int(sum(np.size(p) for p in jax.tree.leaves(run.split.params))),
        gflops_of_forward=operations / options.batch / 1e9,
    )
    calls = {
        name: call for name, call in candidates(run, options.batch).items() if name in options.only
    }
    # what cuDNN plans in one thread breaks the CUDA graph that another one records
    fused = run.config.net.get("attention") == "cudnn"
    first = compiled(calls, at_once=1 if fused else len(calls))
    timings = {name: seconds_each(call, options.rounds) for name, call in calls.items()}
    peak = ceiling(options.out, options.mode)
    for name, timing in timings.items():
        rate = operations * TIMES_FORWARD[name] / timing.median / 1e12
        values = {
            "seconds": timing.median,
            "spread": timing.quartile_deviation,
            "images_per_second": options.batch / timing.median,
            "tflops": rate,
            "share_of_peak": rate / peak,
            "first_call_seconds": first[name],
        }
        if name == "sampling" and "forward" in timings:
            values["over_bare_network"] = timing.median / STEPS / timings["forward"].median
        records.add("throughput", **common, what=name, **values)
    stats = jax.devices()[0].memory_stats() or {}
    records.add("memory", **common, peak_gib=stats.get("peak_bytes_in_use", 0) / 2**30)
    if options.profile:
        needed = _profile_and_account(run, calls["step"], options)
        records.add("memory", **common, step_gib_by_xla=needed / 2**30)


def _profile_and_account(run: Run, step: Callable, options: argparse.Namespace) -> float:
    """Write trace and program of the training step; return the bytes that it needs."""
    name = "".join(c for c in f"{options.network}-{options.mode}" if c.isalnum() or c == "-")
    folder = Path(options.out)
    profile(step, folder / f"{name}.trace.json.gz")
    return account(run, options.batch, folder / f"{name}.hlo.txt.gz")


if __name__ == "__main__":
    main()
