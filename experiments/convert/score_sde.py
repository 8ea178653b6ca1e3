r"""What score_sde calls the weights of its networks.

It exists in JAX (github.com/yang-song/score_sde) and in PyTorch (score_sde_pytorch). Both name a
module by the order in which the network calls it: PyTorch by its place in one list
(``all_modules.7``), JAX by how many of its class came before (``ResnetBlockBigGANpp_3``). So
`calls` walks through our `UNet` in that order, and each dialect names what it meets.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from models import UNet

from .rules import (
    MATRIX_AS_1X1,
    OIHW,
    SAME,
    TRANSPOSED,
    VECTOR,
    Layout,
    Path,
    Rule,
    Weights,
    joined,
)


class Call(NamedTuple):
    """A module of ours, met in the order of the forward pass."""

    kind: str  # a key of CLASSES
    path: Path
    module: Any


class Dialect(NamedTuple):
    """How a framework names and lays out the arrays of a module."""

    convolution: tuple[str, Layout]
    filtered: tuple[str, Layout]  # a convolution beside a FIR filter
    dense: tuple[str, Layout]
    norm: tuple[str, Layout]
    combine: str  # the convolution inside Combine


PYTORCH = Dialect(
    ("weight", OIHW), ("weight", OIHW), ("weight", TRANSPOSED), ("weight", SAME), "Conv_0"
)
PYTORCH_OLD = PYTORCH._replace(combine="Conv")
JAX = Dialect(("kernel", SAME), ("weight", SAME), ("kernel", SAME), ("scale", VECTOR), "Conv_0")

# kind -> the class of score_sde's JAX networks; the kinds of `_classes` differ between its U-Nets.
CLASSES = {
    "frequencies": "GaussianFourierProjection",
    "dense": "Dense",
    "convolution": "Conv",
    "down": "Downsample",
    "up": "Upsample",
    "combine": "Combine",
    "norm": "GroupNorm",
}


def calls(net: UNet) -> Iterator[Call]:
    """Yield all modules of `net`, also without parameters, in the order that score_sde calls them."""
    if net.conditioning is not None:
        path = ("conditioning",)
        if net.conditioning.frequencies is not None:
            yield Call("frequencies", (*path, "frequencies"), net.conditioning)
        yield Call("dense", (*path, "dense0"), net.conditioning.dense0)
        yield Call("dense", (*path, "dense1"), net.conditioning.dense1)
    yield Call("convolution", ("conv_in",), net.conv_in)
    for way in ("down", "up"):
        for i, level in enumerate(getattr(net, way)):
            for j, block in enumerate(level.blocks):
                yield from _block((way, i, "blocks", j), block)
            if way == "up" and level.merge is not None:
                yield from _merge((way, i, "merge"), level.merge)
            if level.resample is not None:
                yield from _step(way, (way, i, "resample"), level.resample)
            if way == "down" and level.merge is not None:
                yield from _merge((way, i, "merge"), level.merge)
        if way == "down":
            yield from _block(("middle0",), net.middle0)
            yield from _block(("middle1",), net.middle1)
    if net.conv_out is not None:
        yield Call("norm", ("norm_out",), net.norm_out)
        yield Call("convolution", ("conv_out",), net.conv_out)


def pytorch_rules(net: UNet, first: int = 0) -> list[Rule]:
    """Return the rules for a state dict of score_sde_pytorch.

    Its list of modules begins with `first` that `net` has not. In the published code, what changes
    the resolution of an image without parameters stands outside of the list.
    """
    listed = [call for call in calls(net) if not _is_idle_resampling(call)]
    return _numbered(PYTORCH, net, listed, first)


def old_pytorch_rules(net: UNet, first: int = 0) -> list[Rule]:
    """Return the same for the code before 2021-03-18, where it has a place in the list."""
    return _numbered(PYTORCH_OLD, net, list(calls(net)), first)


def fitting_rules(net: UNet, weights: Weights, first: int = 0) -> list[Rule]:
    """Return the rules for a state dict, by whichever of the two namings more of its names fit."""

    def misfits(rules: list[Rule]) -> int:
        return len({name for rule in rules for name in rule.theirs} ^ weights.keys())

    return min(pytorch_rules(net, first), old_pytorch_rules(net, first), key=misfits)


def jax_rules(net: UNet, weights: Weights) -> list[Rule]:
    """Return the rules for parameters of the JAX original, their nested names joined by dots."""
    classes = CLASSES | _classes(net, weights)
    counts = Counter()  # of the modules of each class so far
    rules = []
    for call in calls(net):
        name = classes[call.kind]
        rules += _rules(JAX, net, f"{name}_{counts[name]}", call)
        counts[name] += 1
    return rules


def idle(net: UNet, weights: Weights) -> list[str]:
    """Return the names of weights that nothing reads.

    A network without the noise level as an input has such weights there.
    """
    if net.conditioning is not None:
        return []
    random = [
        name
        for name in ("all_modules.0.W", "GaussianFourierProjection_0.W")
        if name in weights and np.ndim(weights[name]) == 1
    ]
    return random + [
        name for name in weights if name.startswith("all_modules.") and ".Dense_0." in name
    ]


def _is_idle_resampling(call: Call) -> bool:
    """Tell whether a module changes the resolution of an image without parameters."""
    return "merge" in call.path and call.kind in ("down", "up") and call.module.conv is None


def _numbered(dialect: Dialect, net: UNet, listed: list[Call], first: int) -> list[Rule]:
    """Return the rules for modules that are named by their places in a list, from `first` on."""
    rules = []
    for i, call in enumerate(listed, first):
        rules += _rules(dialect, net, f"all_modules.{i}", call)
    return rules


def _classes(net: UNet, weights: Weights) -> dict[str, str]:
    """Return the classes of blocks: the network called ddpm has its own, without "pp"."""
    pp = "" if any(name.startswith("AttnBlock_") for name in weights) else "pp"
    return {
        "block": "ResnetBlock" + ("BigGAN" if net.resblock_type == "biggan" else "DDPM") + pp,
        "attention": f"AttnBlock{pp}",
    }


def _block(path: Path, block) -> Iterator[Call]:
    """Yield a residual block and its attention."""
    yield Call("block", path, block)
    if block.attention is not None:
        yield Call("attention", (*path, "attention"), block.attention)


def _step(way: str, path: Path, module) -> Iterator[Call]:
    """Yield what changes the resolution: a block, or a module of its own."""
    if hasattr(module, "conv0"):
        yield from _block(path, module)
    else:
        yield Call(way, path, module)


def _merge(path: Path, merge) -> Iterator[Call]:
    """Yield the modules of an image pyramid at a level."""
    for name in ("down", "up"):  # the pyramid changes its resolution first
        if getattr(merge, name, None) is not None:
            yield Call(name, (*path, name), getattr(merge, name))
    if getattr(merge, "norm", None) is not None:
        yield Call("norm", (*path, "norm"), merge.norm)
    if getattr(merge, "conv", None) is not None:
        kind = "combine" if hasattr(merge, "combine") else "convolution"
        yield Call(kind, (*path, "conv"), merge.conv)


def _pair(prefix: str, path: Path, kind: tuple[str, Layout], kernel: str = "kernel") -> list[Rule]:
    """Return the rules for a weight, called `kernel` here, and its bias."""
    name, layout = kind
    bias = VECTOR if layout is VECTOR else SAME
    return [
        Rule((*path, kernel), (f"{prefix}.{name}",), layout),
        Rule((*path, "bias"), (f"{prefix}.bias",), bias),
    ]


def _matrix(
    prefix: str, path: Path, layout: Layout = SAME, numbers: tuple[int, ...] = (0,)
) -> list[Rule]:
    """Return the rules of score_sde's "network in network", a linear map W (in, out) with bias b."""
    names = [f"{prefix}.NIN_{i}" for i in numbers]
    bias = joined(SAME, len(numbers)) if len(numbers) > 1 else SAME
    return [
        Rule((*path, "kernel"), tuple(f"{name}.W" for name in names), layout),
        Rule((*path, "bias"), tuple(f"{name}.b" for name in names), bias),
    ]


def _rules(dialect: Dialect, net: UNet, prefix: str, call: Call) -> list[Rule]:
    """Return the rules for one module, which is called `prefix` there."""
    kind, path, module = call
    if kind == "frequencies":
        return [Rule(path, (f"{prefix}.W",), SAME)]
    if kind == "dense":
        return _pair(prefix, path, dialect.dense)
    if kind == "convolution":
        return _pair(prefix, path, dialect.convolution)
    if kind == "combine":
        return _pair(f"{prefix}.{dialect.combine}", path, dialect.convolution)
    if kind == "norm":
        return _pair(prefix, path, dialect.norm, "scale")
    if kind in ("down", "up"):
        if module.conv is None:
            return []
        if module.fir:
            return _pair(f"{prefix}.Conv2d_0", (*path, "conv"), dialect.filtered)
        return _pair(f"{prefix}.Conv_0", (*path, "conv"), dialect.convolution)
    if kind == "attention":
        return [
            *_pair(f"{prefix}.GroupNorm_0", (*path, "norm"), dialect.norm, "scale"),
            *_matrix(prefix, (*path, "qkv"), joined(SAME, 3), (0, 1, 2)),
            *_matrix(prefix, (*path, "out"), SAME, (3,)),
        ]
    rules = []
    for i in (0, 1):
        rules += _pair(f"{prefix}.GroupNorm_{i}", (*path, f"norm{i}"), dialect.norm, "scale")
        rules += _pair(f"{prefix}.Conv_{i}", (*path, f"conv{i}"), dialect.convolution)
    if module.cond is not None:
        rules += _pair(f"{prefix}.Dense_0", (*path, "cond"), dialect.dense)
    if module.shortcut is not None and net.resblock_type == "biggan":
        rules += _pair(f"{prefix}.Conv_2", (*path, "shortcut"), dialect.convolution)
    elif module.shortcut is not None:
        rules += _matrix(prefix, (*path, "shortcut"), MATRIX_AS_1X1)
    return rules
