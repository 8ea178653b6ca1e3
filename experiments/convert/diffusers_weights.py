"""What diffusers' `UNet2DModel` calls the weights of its network, as rules for our `UNet`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import UNet

from .rules import OIHW, SAME, TRANSPOSED, Layout, Path, Rule, joined, single

# Parts of names in older files.
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# [cos, sin] instead of [sin, cos]: the rows of the matrix behind them change places.
FLIPPED = single(
    lambda a: np.roll(a.T, a.shape[1] // 2, axis=0), lambda a: np.roll(a, a.shape[0] // 2, axis=0).T
)
LABEL = ("conditioning", "label", "embedding")
# Labels without a row for "no label".
LABELS = single(lambda a: np.concatenate([a, np.full_like(a[:1], np.nan)]), lambda a: a[:-1])


def diffusers_rules(net: UNet, flip: bool, no_label: bool = False) -> list[Rule]:
    """Return the rules for the weights of a `UNet2DModel`.

    `flip` is its flip_sin_to_cos, `no_label`: its last label means "no label".
    """
    rules = _conditioning(net.conditioning, flip, no_label)
    rules += _pair("conv_in", ("conv_in",), OIHW)
    for i, level in enumerate(net.down):
        rules += _level("down", i, level)
        if level.merge is not None:
            rules += _pair(f"down_blocks.{i}.skip_conv", ("down", i, "merge", "conv"), OIHW)
    for i, level in enumerate(net.up):
        rules += _level("up", i, level)
        if level.merge is not None:
            norm = f"up_blocks.{i}.skip_norm"
            conv = f"up_blocks.{i}.skip_conv"
            if i == len(net.down) - 1:  # the last one's are at the end of the network there
                norm = "conv_norm_out"
                conv = "conv_out"
            rules += _pair(norm, ("up", i, "merge", "norm"), SAME, "scale")
            rules += _pair(conv, ("up", i, "merge", "conv"), OIHW)
    for j, block in enumerate((net.middle0, net.middle1)):
        rules += _block(f"mid_block.resnets.{j}", (f"middle{j}",), block)
    if net.middle0.attention is not None:
        rules += _attention("mid_block.attentions.0", ("middle0", "attention"))
    if net.conv_out is not None:
        rules += _pair("conv_norm_out", ("norm_out",), SAME, "scale")
        rules += _pair("conv_out", ("conv_out",), OIHW)
    return rules


def _conditioning(conditioning: Any, flip: bool, no_label: bool) -> list[Rule]:
    """Return the rules for the embedding of time and label, which a network need not have."""
    if conditioning is None:
        return []
    rules = []
    fourier = conditioning.frequencies is not None
    if fourier:
        rules.append(Rule(("conditioning", "frequencies"), ("time_proj.weight",), SAME))
    first = FLIPPED if flip and not fourier else TRANSPOSED
    rules += _pair("time_embedding.linear_1", ("conditioning", "dense0"), first)
    rules += _pair("time_embedding.linear_2", ("conditioning", "dense1"), TRANSPOSED)
    if conditioning.label is not None:
        layout = SAME if no_label else LABELS
        rules.append(Rule(LABEL, ("class_embedding.weight",), layout, not no_label))
    return rules


def _level(way: str, i: int, level: Any) -> list[Rule]:
    """Return the rules for the blocks of a level, and for what changes the resolution after them."""
    rules = []
    prefix = f"{way}_blocks.{i}"
    for j, block in enumerate(level.blocks):
        path = (way, i, "blocks", j)
        rules += _block(f"{prefix}.resnets.{j}", path, block)
        if block.attention is not None:
            index = 0 if way == "up" and level.merge is not None else j
            rules += _attention(f"{prefix}.attentions.{index}", (*path, "attention"))
    if level.resample is not None:
        path = (way, i, "resample")
        name = f"{prefix}.{way}samplers.0" if level.merge is None else f"{prefix}.resnet_{way}"
        if hasattr(level.resample, "conv0"):
            rules += _block(name, path, level.resample)
        else:
            rules += _pair(f"{name}.conv", (*path, "conv"), OIHW)
    return rules


def modern(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights under the names that diffusers gives them now."""
    renamed = {}
    for name, value in weights.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _pair(prefix: str, path: Path, layout: Layout, kernel: str = "kernel") -> list[Rule]:
    """Return the rules for a weight, called `kernel` here, and its bias."""
    return [
        Rule((*path, kernel), (f"{prefix}.weight",), layout),
        Rule((*path, "bias"), (f"{prefix}.bias",), SAME),
    ]


def _block(prefix: str, path: Path, block) -> list[Rule]:
    """Return the rules for a residual block, its attention apart."""
    rules = []
    for i in (0, 1):
        rules += _pair(f"{prefix}.norm{i + 1}", (*path, f"norm{i}"), SAME, "scale")
        rules += _pair(f"{prefix}.conv{i + 1}", (*path, f"conv{i}"), OIHW)
    if block.cond is not None:
        rules += _pair(f"{prefix}.time_emb_proj", (*path, "cond"), TRANSPOSED)
    if block.shortcut is not None:
        rules += _pair(f"{prefix}.conv_shortcut", (*path, "shortcut"), OIHW)
    return rules


def _attention(prefix: str, path: Path) -> list[Rule]:
    """Return the rules for attention."""
    names = [f"{prefix}.to_{part}" for part in "qkv"]
    return [
        *_pair(f"{prefix}.group_norm", (*path, "norm"), SAME, "scale"),
        Rule(
            (*path, "qkv", "kernel"),
            tuple(f"{name}.weight" for name in names),
            joined(TRANSPOSED, 3),
        ),
        Rule((*path, "qkv", "bias"), tuple(f"{name}.bias" for name in names), joined(SAME, 3)),
        *_pair(f"{prefix}.to_out.0", (*path, "out"), TRANSPOSED),
    ]
