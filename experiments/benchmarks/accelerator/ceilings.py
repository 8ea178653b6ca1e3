"""What the device can do at most: matrix products in each precision, and copies of memory.

python -m experiments.benchmarks.accelerator.ceilings --out=DIR
"""

import platform

import jax
import jax.numpy as jnp

from ...run.devices import make_mesh, set_up_jax
from ...run.step_program import device_memory
from ..calls import product
from .options import parse
from .records import Records
from .stopwatch import seconds_each

KINDS = {
    "bfloat16": ("bfloat16", None),
    "tf32": ("float32", "tensorfloat32"),
    "float32": ("float32", "highest"),
}


def main() -> None:
    """Measure the products and the copy, and store the rates."""
    options = parse(__doc__)
    set_up_jax()
    records = Records(options.out)
    device = jax.devices()[0]
    limit = device_memory() or 0
    records.add(
        "device",
        kind=device.device_kind,
        count=jax.device_count(),
        memory_gib=limit / 2**30,
        jax=jax.__version__,
        python=platform.python_version(),
    )
    n = 256 if options.tiny else 8192
    for name, (dtype, precision) in KINDS.items():
        timing = seconds_each(product(n, dtype, precision, make_mesh(n)), options.rounds)
        records.add(
            "ceilings", what=f"product of {n} x {n}, {name}", tflops=2 * n**3 / timing.median / 1e12
        )
    x = jnp.ones(2**18 if options.tiny else 2**30, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    timing = seconds_each(lambda: copy(x), options.rounds)
    records.add(
        "ceilings",
        what="x + 1, read and written",
        terabytes_per_second=2 * x.nbytes / timing.median / 1e12,
    )


if __name__ == "__main__":
    main()
