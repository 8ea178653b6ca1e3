"""Each rewriting that pays on a CPU, switched off: what a training step takes without it here.

All others stay on.

    python -m experiments.benchmarks.accelerator.rewritings --out=DIR

The networks have the widths of the published ones and one block a level, so that they compile fast.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from models import dit, group_norm, layers, resample, unet

from ...run.build import Run, flops
from ...run.devices import make_mesh, set_up_jax
from ...run.losses import make_loss
from ...state import TrainState, make_train_step
from ..calls import Steps, first_state, images
from .options import parse
from .records import Records
from .stopwatch import seconds_each
from .subjects import make_run, with_numbers

FEWER_BLOCKS: dict[str, dict[str, Any]] = {
    "DDPM++": {"num_res_blocks": 1},
    "NCSN++": {"num_res_blocks": 1},
    "DiT-B/2-fused": {"depth": 2},
}
SHORT = {
    "DDPM++": "one block a level",
    "NCSN++": "one block a level",
    "DiT-B/2-fused": "two blocks",
}


def traced_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    """Group normalisation as its definition reads, differentiated by JAX."""
    b, h, w, c = x.shape
    grouped = x.reshape(b, h, w, groups, c // groups)
    centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
    inverse = jax.lax.rsqrt((centred**2).mean((1, 2, 4), keepdims=True) + eps)
    return (centred * inverse).reshape(x.shape) * scale + bias


def one_pass_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    """The same with mean and mean square in one pass over the pixels; what cancels is lost."""
    b, h, w, c = x.shape
    grouped = x.reshape(b, h, w, groups, c // groups)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    square = (grouped**2).mean((1, 2, 4), keepdims=True)
    inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + eps)
    return ((grouped - mean) * inverse).reshape(x.shape) * scale + bias


def one_pass_modulated(_self: Any, h: Array, shift: Array, scale: Array) -> Array:
    """A transformer's normalisation with mean and mean square in one pass over the features.

    What cancels is lost.
    """
    wide = h.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    square = (wide**2).mean(-1, keepdims=True)
    normal = (wide - mean) * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + 1e-6)
    return (normal * (1 + scale[:, None]) + shift[:, None]).astype(h.dtype)


def unnormalised(_self: Any, h: Array, shift: Array, scale: Array) -> Array:
    """Scale and shift without normalising."""
    return h * (1 + scale[:, None]).astype(h.dtype) + shift[:, None].astype(h.dtype)


def depthwise_filter(x: Array, fir, pad, *, up: int = 1, down: int = 1) -> Array:
    """The FIR filter as one depthwise convolution."""
    taps = np.asarray(fir, np.float64)[::-1] / np.sum(fir) * up
    kernel = jnp.asarray(np.outer(taps, taps), x.dtype)[:, :, None, None]
    kernel = jnp.broadcast_to(kernel, (*kernel.shape[:3], x.shape[-1]))
    # a zero stands behind the last pixel too
    padding = [(pad[0], pad[1] + up - 1)] * 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (down, down),
        padding,
        lhs_dilation=(up, up),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def conv_after_upsampling(x: Array, kernel: Array) -> Array:
    """Upsample, then convolve at the high resolution."""
    up = resample.upsample(x)
    return jax.lax.conv_general_dilated(
        up, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=resample.DIMENSIONS
    )


def cudnn_attention(q: Array, k: Array, v: Array) -> Array:
    """Attention by cuDNN's fused kernel."""
    return ATTENTION(q, k, v, implementation="cudnn")


ATTENTION = jax.nn.dot_product_attention


def unchanged(x: Array) -> Array:
    """Return x: a sum without its barrier, a type that is not widened."""
    return x


def no_dropout(_self: nnx.Dropout, x: Array, **_settings: Any) -> Array:
    """Return x."""
    return x


# name -> (networks that have it, what is put in its place: (module, name, substitute))
Replacement = tuple[Any, str, Callable]
SUMS: list[Replacement] = [
    (module, "summable", unchanged) for module in (layers, group_norm, resample)
]
SWITCHES: dict[str, tuple[tuple[str, ...], list[Replacement]]] = {
    "as it is": (tuple(FEWER_BLOCKS), []),
    "group norm's derivative by tracing": (
        ("DDPM++",),
        [(layers, "group_norm", traced_norm)],
    ),
    "group norm in one pass, traced": (("DDPM++",), [(layers, "group_norm", one_pass_norm)]),
    "convolution after upsampling": (
        ("DDPM++",),
        [(resample, "conv_of_upsampled", conv_after_upsampling)],
    ),
    "FIR as depthwise convolution": (
        ("NCSN++",),
        [(resample, "filtered", depthwise_filter)],
    ),
    "without summable": (("DDPM++", "NCSN++"), SUMS),
    "none of them": (
        ("DDPM++",),
        [
            *SUMS,
            (layers, "group_norm", traced_norm),
            (resample, "conv_of_upsampled", conv_after_upsampling),
        ],
    ),
    # not of ours, to know what they cost
    "residual sums in bfloat16": (
        ("DDPM++",),
        [(layers, "widened", unchanged), (unet, "widened", unchanged)],
    ),
    "leaner norm and residual sums": (
        ("DDPM++",),
        [
            (layers, "group_norm", one_pass_norm),
            (layers, "widened", unchanged),
            (unet, "widened", unchanged),
        ],
    ),
    "without dropout": (("DDPM++",), [(nnx.Dropout, "__call__", no_dropout)]),
    "layer norm in one pass": (
        ("DiT-B/2-fused",),
        [(dit.Modulated, "__call__", one_pass_modulated)],
    ),
    "without layer norm": (("DiT-B/2-fused",), [(dit.Modulated, "__call__", unnormalised)]),
    "attention by cuDNN": (("DDPM++",), [(jax.nn, "dot_product_attention", cudnn_attention)]),
}


@contextlib.contextmanager
def replaced(replacements: list[Replacement]) -> Iterator[None]:
    """Put the substitutes in place while a program is traced."""
    with contextlib.ExitStack() as stack:
        for module, name, substitute in replacements:
            stack.enter_context(mock.patch.object(module, name, substitute))
        yield


def main() -> None:
    """Trace each variant, compile all at once, time one after the other."""

    def more(parser):
        parser.add_argument("--mode", default="bfloat16")
        parser.add_argument("--batch", type=int, default=256)
        parser.add_argument(
            "--networks", nargs="*", choices=list(FEWER_BLOCKS), default=list(FEWER_BLOCKS)
        )
        parser.add_argument("--switches", nargs="*", default=list(SWITCHES))
        parser.add_argument("--whole", action="store_true", help="networks as published")

    options = parse(__doc__, more)
    set_up_jax()
    records = Records(options.out)
    for network in options.networks:
        size = {} if options.tiny or options.whole else FEWER_BLOCKS[network]
        run = with_numbers(make_run(network, options.mode, tiny=options.tiny, **size))
        _measure(run, network, options, records)


def _measure(run: Run, network: str, options: argparse.Namespace, records: Records) -> None:
    """Time the training step of one network with each of the switches, and store the results."""
    mesh = make_mesh(options.batch)
    data = images(run, options.batch, mesh)
    operations = (flops(run) or np.nan) * options.batch
    common = {"mode": options.mode, "batch": options.batch}
    state = first_state(run, mesh)
    steps, errors = _compiled_steps(run, network, state, data, options.switches)
    for name, error in errors.items():  # what cannot be compiled here is a result too
        records.add("rewritings", network=network, **common, what=name, error=str(error)[:200])
    base = None
    for name, step in steps.items():
        timing = seconds_each(Steps(first_state(run, mesh), data).of(step), options.rounds)
        base = base or timing.median
        records.add(
            "rewritings",
            network=network if options.whole else f"{network}, {SHORT[network]}",
            **common,
            what=name,
            seconds=timing.median,
            spread=timing.quartile_deviation,
            over_as_it_is=timing.median / base,
            tflops=operations * 3 / timing.median / 1e12,
            temporary_gib=step.memory_analysis().temp_size_in_bytes / 2**30,
        )


def _compiled_steps(
    run: Run, network: str, state: TrainState, data: dict, switches: list[str]
) -> tuple[dict[str, Any], dict[str, Exception]]:
    """Return the compiled training steps by name, and the errors of those that do not compile."""
    errors: dict[str, Exception] = {}
    lowered = {}
    for name, (networks, replacements) in SWITCHES.items():
        if network in networks and name in switches:
            jax.clear_caches()  # what was traced before knows nothing of the substitutes
            try:
                with replaced(replacements):
                    step = make_train_step(make_loss(run), run.tx)
                    lowered[name] = step.lower(state, data)
            except Exception as error:
                errors[name] = error
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        jobs = {name: pool.submit(program.compile) for name, program in lowered.items()}
    seconds = time.perf_counter() - start
    print(f"  {len(jobs)} programs of {network} compiled in {seconds:.0f} s", flush=True)
    steps = {}
    for name, job in jobs.items():
        try:
            steps[name] = job.result()
        except Exception as error:
            errors[name] = error
    return steps, errors


if __name__ == "__main__":
    main()
