"""What it costs and saves to split weights, moments and averages over devices.

    python -m experiments.benchmarks.placements            # a small network and DDPM++, on all devices

The same training step, with the arrays in different places: whole on one device, whole on all, with
the update split (`placement.split_update`), and with the weights split (`placement.fsdp`). Times
are medians of interleaved rounds, as ratios to the first row. Bytes are those of XLA's memory
analysis of the compiled step, for one device: what it is given and what it needs beside.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..measures.timing import interleaved
from ..run.build import Run, with_parameters
from ..run.devices import make_mesh, set_up_jax
from ..run.losses import make_loss
from ..run.placement import Placement, share
from ..state import abstract_state, init_state, make_train_step
from .networks import LARGE, SHAPE, SMALL, make_run

MIB = 2**20


class Subject(NamedTuple):
    """A compiled training step with its arrays in one way of placing them."""

    call: Callable[[], Any]  # makes a step
    given: int  # bytes of state and batch on a device
    needed: int  # bytes beside them while a step is made


def ways(batch: int) -> dict[str, Placement]:
    """Return the placements by name, on all devices that can share a batch."""
    count = jax.device_count()
    found = {"one device": Placement(make_mesh(batch, 1))}
    if count > 1:
        found |= {
            "whole on all": Placement(make_mesh(batch, count)),
            "split update": Placement(make_mesh(batch, count), split_update=True),
            "fsdp": Placement(make_mesh(batch, count, fsdp=count)),
        }
    return found


def subject(run: Run, place: Placement, batch: int) -> Subject:
    """Return the training step of a run with its arrays in their places."""
    shardings = place.state(abstract_state(run.parameters(), run.tx))
    drawn = with_parameters(run, place.weights(run.split.params))
    state = init_state(jax.random.key(0), drawn.parameters(), run.tx, shardings=shardings)
    step = make_train_step(place.gathers(make_loss(run)), run.tx, shardings=shardings)
    x = np.random.default_rng(0).uniform(-1, 1, (batch, *SHAPE)).astype(np.float32)
    data = share(place.mesh, {"x": x, "label": np.zeros(batch, np.int32)})
    compiled = step.lower(state, data).compile()
    memory = compiled.memory_analysis()

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, data)
        return metrics

    return Subject(call, memory.argument_size_in_bytes, memory.temp_size_in_bytes)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("small", "large"))
    arguments = parser.parse_args()
    set_up_jax()
    for name, settings in {"small": SMALL, "large": LARGE}.items():
        if arguments.only in (None, name):
            _print_costs(make_run(settings), arguments.batch, arguments.rounds)


def _print_costs(run: Run, batch: int, rounds: int) -> None:
    """Measure one network, and print a table."""
    count = sum(np.size(p) for p in jax.tree.leaves(run.split.params))
    print(f"\n{count:,} parameters, batch {batch}, {jax.device_count()} devices", flush=True)
    subjects = {name: subject(run, place, batch) for name, place in ways(batch).items()}
    times = interleaved({name: each.call for name, each in subjects.items()}, rounds)
    first = next(iter(times.values())).median
    print("\n| | s | ratio | given, MiB | beside, MiB |\n|---|---|---|---|---|")
    for name, each in subjects.items():
        seconds = times[name].median
        print(
            f"| {name} | {seconds:.3f} | {seconds / first:.2f} | {each.given / MIB:.0f} | "
            f"{each.needed / MIB:.0f} |"
        )


if __name__ == "__main__":
    main()
