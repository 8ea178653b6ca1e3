"""Memory and time of large networks on many devices, on paper.

    python -m experiments.benchmarks.scale

Nothing is run. Parameters are counted, operations are XLA's count of the program, and what the
gradient keeps of an image is the sum of the residuals that JAX saves. Measured on one H200
(`results/h200.json`) are the share of the peak that a step reaches, and what XLA's fusion leaves of
those residuals. A device holds its part of 20 bytes a parameter (weight, gradient, two moments,
average, all float32), and while a step is made the weights that are gathered (at most all of them).
"""

from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ..configs.common import base_config
from ..configs.score_sde import get_config
from ..run.build import DataFacts, Run, build, flops
from ..run.devices import set_up_jax
from ..run.losses import make_loss

PEAK = 616e12  # operations a second of a large product in bfloat16, measured
GIB = 2**30
BYTES = 20  # a parameter
BILLION = {"patch": 2, "width": 1408, "depth": 28, "heads": 22}
IMAGES = {"NCSN++ of FFHQ, 1024 px": 8, "DiT, 64 px of a latent": 32}  # on a device
HEADER = (
    "| network | devices | images each | state, GiB | gathered, GiB | kept, GiB | together, GiB | "
    "compute, ms | links, ms | images/s |\n|---|---|---|---|---|---|---|---|---|---|"
)
LINK = (
    50e9  # bytes a second that reach a device, as between machines; inside one it is ten times that
)


class Paper(NamedTuple):
    """What is known of a training step before it is run."""

    name: str
    parameters: int
    operations: float  # of a forward pass of one image
    kept: float  # bytes of an image between the passes, with rematerialisation
    share: float  # of the peak that a step reaches, measured on the nearest network


def _known(name: str, config: ConfigDict, facts: DataFacts, share: float) -> Paper:
    """Return what can be counted of a configuration whose network has `remat`."""
    run = build(config, facts, abstract=True)
    parameters = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(run.parameters()))
    kept = [_residuals(run, batch) for batch in (1, 2)]
    return Paper(name, parameters, flops(run) or np.nan, kept[1] - kept[0], share)


def _residuals(run: Run, batch: int) -> int:
    """Return the bytes that the gradient of a batch keeps of the forward pass."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    data = {
        "x": jax.ShapeDtypeStruct((batch, *run.facts.shape), np.float32),
        "label": jax.ShapeDtypeStruct((batch,), np.int32),
    }
    loss = make_loss(run)

    def backward(params, key, data):
        return jax.vjp(lambda params: loss(params, key, data), params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, run.parameters(), key, data))
    return sum(int(np.prod(a.shape)) * np.dtype(a.dtype).itemsize for a in kept)


def row(paper: Paper, devices: int, images: int) -> str:
    """Return a row of the table: `images` on each device."""
    state = BYTES * paper.parameters / devices
    gathered = 4 * paper.parameters
    memory = state + gathered + images * paper.kept
    # forward, backward, and forward again
    compute = 4 * paper.operations * images / (PEAK * paper.share)
    traffic = 3 * 4 * paper.parameters * (devices - 1) / devices / LINK
    rate = devices * images / max(compute, traffic)
    return (
        f"| {paper.name} | {devices} | {images} | {state / GIB:.2f} | {gathered / GIB:.2f} | "
        f"{images * paper.kept / GIB:.1f} | {memory / GIB:.1f} | {compute * 1e3:.0f} | "
        f"{traffic * 1e3:.0f} | {rate:.0f} |"
    )


def papers() -> list[Paper]:
    """Return the networks of the table."""
    ffhq = get_config("ve,ncsnpp,ffhq")
    ffhq.net.update({"dtype": "bfloat16", "remat": True})
    dit = base_config()
    dit.net = {"name": "DiT", "dtype": "bfloat16", "remat": True, **BILLION}
    dit.train.conditional = True
    return [
        _known("NCSN++ of FFHQ, 1024 px", ffhq, DataFacts((1024, 1024, 3), 256, 0, 0.5), 0.44),
        _known("DiT, 64 px of a latent", dit, DataFacts((64, 64, 4), None, 1000, 0.5), 0.50),
    ]


def main() -> None:
    """Print the table."""
    set_up_jax()
    for paper in papers():
        print(
            f"{paper.name}: {paper.parameters / 1e6:.1f} M parameters, {paper.operations / 1e9:.0f} "
            f"GFLOP a forward pass, {paper.kept / 2**20:.0f} MiB kept of an image"
        )
        print(HEADER)
        for devices in (1, 8, 256):
            print(row(paper, devices, IMAGES[paper.name]))


if __name__ == "__main__":
    main()
