"""Posterior sampling of images: what DPS, PiGDM and MMPS cost beside the same steps without a
measurement, in images a second and in memory.

python -m experiments.benchmarks.accelerator.restoration --network=DDPM++ --mode=bfloat16 \\
    --batch=64 --out=DIR

Half of the pixels are measured. The memory is XLA's own account of the program: what it holds at
once beyond the network's parameters.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers import Ancestral, DPMpp2M, grids, sample
from samplers.inverse import DPS
from sde_lib.inverse import MMPS, Mask, Measurement, PiGDM, PriorDenoiser

from ...run.build import Run
from ...run.devices import set_up_jax
from .options import parse
from .records import Records
from .stopwatch import seconds_each
from .subjects import MODES, NETWORKS, make_run, with_numbers

STEPS = 20
STD = 0.05  # of the noise of the measurement


def walks(run: Run) -> dict[str, Callable[[Array], Array]]:
    """Return the walks from noise (batch, ...) to samples by name, the one without measurement
    first.
    """
    prior, sde = run.denoiser(run.split.params), run.sde
    known = np.random.default_rng(0).random(run.facts.shape) < 0.5
    operator = Mask(jnp.asarray(known))
    ts = grids.log_snr(sde, STEPS)
    methods = {
        "no measurement": (Ancestral(), PriorDenoiser(prior)),
        "DPS": (DPS(operator), PriorDenoiser(prior)),
        "PiGDM": (DPMpp2M(), PiGDM(prior, sde, operator, STD)),
        "MMPS": (DPMpp2M(), MMPS(prior, sde, operator, STD)),
    }

    def walk(sampler, denoise):
        def drawn(x: Array) -> Array:
            cond = Measurement(jax.vmap(operator)(jnp.tanh(x)))
            return sample(jax.random.key(0), sampler, denoise, sde, ts, x, cond=cond).x

        return drawn

    return {name: walk(*method) for name, method in methods.items()}


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this part."""
    parser.add_argument("--network", choices=list(NETWORKS), default="DDPM++")
    parser.add_argument("--mode", choices=list(MODES), default="bfloat16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--untimed", action="store_true", help="compile only: the memory, without the seconds"
    )


def main() -> None:
    """Measure each walk, and store."""
    options = parse(__doc__, _add_flags)
    set_up_jax()
    records = Records(options.out)
    run = with_numbers(make_run(options.network, options.mode, tiny=options.tiny))
    x = jax.random.normal(jax.random.key(0), (options.batch, *run.facts.shape))
    plain = None
    for name, walk in walks(run).items():
        start = time.perf_counter()
        program = jax.jit(walk).lower(x).compile()
        values = {"compile_seconds": time.perf_counter() - start}
        account = program.memory_analysis()
        needed = account.temp_size_in_bytes if account is not None else float("nan")
        plain = plain or needed
        values |= {"memory_gib": needed / 2**30, "memory_over_plain": needed / plain}
        if not options.untimed:
            timing = seconds_each(lambda program=program: program(x), options.rounds)
            values |= {"seconds": timing.median, "spread": timing.quartile_deviation}
            values["images_per_second"] = options.batch / timing.median
        records.add(
            "restoration",
            what=name,
            network=options.network,
            mode=options.mode,
            batch=options.batch,
            steps=STEPS,
            **values,
        )


if __name__ == "__main__":
    main()
