"""What the device can do at most: matrix products in each precision, and copies of memory.

python -m experiments.benchmarks.accelerator.ceilings --out=DIR
"""

import platform

import jax
import jax.numpy as jnp

from ...run.devices import set_up_jax
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
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
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
        product_of = jax.jit(
            lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision)
        )
        a, b = (jax.random.normal(jax.random.key(seed), (n, n), dtype) for seed in range(2))
        timing = seconds_each(lambda a=a, b=b, f=product_of: f(a, b), options.rounds)
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
