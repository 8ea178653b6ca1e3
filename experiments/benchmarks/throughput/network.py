"""One network: what its step needs of memory, and how fast it computes beside a matrix product.

python -m experiments.benchmarks.throughput.network --network=small --out=FILE
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...measures.timing import interleaved
from ...run.build import Run, flops
from ...run.devices import make_mesh, set_up_jax
from ...run.losses import make_loss
from ...run.step_program import memory_of
from ...state import TrainState, make_train_step
from ..accelerator.records import Records
from ..accelerator.subjects import MODES
from ..calls import Steps, first_state, forward, images, product, sampling
from ..compiling import CompileSeconds, compile_seconds
from .account import account
from .loop import measure_loop
from .operations import operations
from .subjects import SUBJECTS, subject_run

WALK = 4  # steps of the walk that is timed
PARTS = ("account", "memory", "rates", "loop")
STEPS = {"step": False, "step, remat": True}  # the names of the steps: is net.remat set?
GIB = 2**30


class Case(NamedTuple):
    """A network, and where what is measured of it goes."""

    run: Run
    again: Run  # with net.remat
    batch: int
    mesh: Any
    state: TrainState
    data: Any
    step_operations: float
    options: argparse.Namespace
    records: Records
    common: dict[str, Any]  # what stands in each of its records

    def add(self, part: str, **values: Any) -> None:
        """Print and store a result."""
        self.records.add(part, **self.common, **values)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a network is measured."""
    parser.add_argument("--batch", type=int, help="images of a step, instead of what suits a CPU")
    parser.add_argument("--mode", choices=list(MODES), default="default", help="of computation")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of each timing")
    parser.add_argument("--block", type=int, default=100, help="steps between two log entries")
    parser.add_argument("--devices", type=int, default=0, help="how many devices; 0: all")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try it")
    parser.add_argument("--out", default="runs/throughput.jsonl", help="file of the results")


def main() -> None:
    """Measure the network that the command line names; write each result as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", choices=list(SUBJECTS), default="small")
    add_flags(parser)
    set_up_jax()
    case = make_case(parser.parse_args())
    parts = case.options.parts
    if "account" in parts:
        measure_account(case)
    if "memory" in parts:
        measure_memory(case)
    if "rates" in parts:
        measure_rates(case)
    if "loop" in parts:
        for result in measure_loop(case.run, case.batch, case.options.block):
            case.add("loop", **result)


def make_case(options: argparse.Namespace) -> Case:
    """Return the network that the options name, with a first state and a batch on the devices."""
    batch = options.batch or SUBJECTS[options.network].batch
    mesh = make_mesh(batch, options.devices)
    run = subject_run(options.network, options.mode, tiny=options.tiny)
    state = first_state(run, mesh)
    data = images(run, batch, mesh)
    step = operations(jax.value_and_grad(make_loss(run)), state.params, state.key, data)
    out = Path(options.out)
    return Case(
        run=run,
        again=subject_run(options.network, options.mode, tiny=options.tiny, remat=True),
        batch=batch,
        mesh=mesh,
        state=state,
        data=data,
        step_operations=step.total,
        options=options,
        records=Records(out.parent, out.name),
        common={
            "network": options.network,
            "mode": options.mode,
            "batch": batch,
            "devices": mesh.size,
        },
    )


def measure_account(case: Case) -> None:
    """Count, without compiling, the operations and the bytes of a step."""
    by_hand = account(case.run, case.state, case.data)
    case.add(
        "account",
        device=case.mesh.devices.flat[0].device_kind,
        parameters=sum(p.size for p in jax.tree.leaves(case.state.params)),
        gflop_of_step=case.step_operations / 1e9,
        xla_count_over_ours=3 * case.batch * (flops(case.run) or np.nan) / case.step_operations,
        **{f"{name}_gib": value / GIB for name, value in by_hand._asdict().items()},
    )


def measure_memory(case: Case) -> None:
    """Compile the step, plain and with net.remat, for its memory and the seconds that it takes."""
    by_hand = account(case.run, case.state, case.data).of_one(case.mesh.size)
    for name in STEPS:
        program, seconds = _compiled(case, name)
        memory = memory_of(program)
        if memory is None:
            continue
        case.add(
            "memory",
            what=name,
            state_and_batch_gib=memory.arguments / GIB,
            temporaries_gib=memory.temporaries / GIB,
            over_by_hand=memory.total / by_hand.total,
            over_least=memory.total / by_hand.least,
            compile_seconds=seconds.cold,
            compile_seconds_from_cache=seconds.warm,
        )


def _compiled(case: Case, name: str) -> tuple[Any, CompileSeconds]:
    """Return a step as a compiled program, and how long that takes."""
    programs = []

    def prepare() -> Callable[[], None]:
        step = _step(case, name)
        return lambda: programs.append(step.lower(case.state, case.data).compile())

    seconds = compile_seconds(prepare)
    return programs[-1], seconds


def _step(case: Case, name: str) -> Any:
    """Return a jitted training step by its name."""
    run = case.again if STEPS[name] else case.run
    return make_train_step(make_loss(run), run.tx)


def measure_rates(case: Case) -> None:
    """Time steps, forward pass, walk and a large matrix product in turn."""
    n = _size_of_product(case)
    kind, precision = MODES[case.options.mode]
    steps = Steps(jax.tree.map(jnp.copy, case.state), case.data)
    calls = {
        "product": product(n, kind, precision, case.mesh),
        "forward": forward(case.run, case.batch, case.mesh),
        **{name: steps.of(_step(case, name)) for name in STEPS},
        "walk": sampling(case.run, case.batch, case.mesh, WALK),
    }
    timings = interleaved(calls, case.options.rounds)
    evaluation = _operations_of_forward(case)
    counts = {
        "product": 2.0 * n**3,
        "forward": evaluation,
        **dict.fromkeys(STEPS, case.step_operations),
        "walk": WALK * evaluation,
    }
    peak = counts["product"] / timings["product"].median
    for name, timing in timings.items():
        values = {"seconds": timing.median, "spread": timing.quartile_deviation}
        if name != "product":
            values["images_per_second"] = case.batch / timing.median
        rate = counts[name] / timing.median
        values |= {"gflop_per_second": rate / 1e9, "share_of_product": rate / peak}
        if name == "walk":
            values["over_network"] = timing.median / WALK / timings["forward"].median
        if name == "step, remat":
            values["over_step"] = timing.median / timings["step"].median
        case.add("rates", what=name, **values)


def _size_of_product(case: Case) -> int:
    """Return the rows of a matrix whose product keeps the devices busy for a while."""
    if case.options.tiny:
        return 256
    return 2048 if jax.default_backend() == "cpu" else 8192


def _operations_of_forward(case: Case) -> float:
    """Count the operations of one evaluation for the batch."""

    def output(params, x, t):
        return case.run.denoiser(params).output(x, t)

    t = jax.ShapeDtypeStruct((case.batch,), jnp.float32)
    return operations(output, case.state.params, case.data["x"], t).total


if __name__ == "__main__":
    main()
