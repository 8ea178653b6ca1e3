r"""Networks of diffusers' `UNet2DModel` (github.com/huggingface/diffusers): weights in safetensors, settings in config.json.

Its block types are levels of our `UNet`. "Skip" ones are NCSN++ (FIR, both image pyramids, residual sums over :math:`\sqrt 2`), the others
DDPM. Where one network of diffusers mixes what one of ours cannot, it is refused by name.

Labels (`num_class_embeds`) add a row of a table to the embedding of time, as ours do with `label_into` "embedding". Our table has one row
more, "no label". There a missing label is an error, so here that row is NaN, a loud answer; training on begins at the mean of the labels
(`with_no_label`). Of a network that was trained with its last label meaning "none", `"_no_label": num_class_embeds - 1` in config.json says
so: we write it where that row is no NaN, and diffusers passes over it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import UNet

from ..errors import RunError
from .expect import (
    ANYTHING,
    BLOCKS,
    BOOLEAN,
    CHANNELS,
    COUNT,
    DROPOUT,
    LEVELS,
    POSITIVE,
    SIZE,
    TEXT,
    Expected,
    check,
    either,
    optional,
    real,
    several,
    whole,
)
from .reading import shown
from .rules import OIHW, SAME, TRANSPOSED, Layout, Path, Rule, joined, single

# What a missing key of config.json means.
DEFAULTS: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "center_input_sample": False, "time_embedding_type": "positional", "time_embedding_dim": None,
    "freq_shift": 0, "flip_sin_to_cos": True, "mid_block_type": "UNetMidBlock2D", "layers_per_block": 2, "mid_block_scale_factor": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), "block_out_channels": (224, 448, 672, 896),
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu",
    "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default",
    "add_attention": True, "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None, "sample_size": None,
}  # fmt: skip
DOWN = (
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "SkipDownBlock2D",
    "AttnSkipDownBlock2D",
)
UP = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D")
BLOCK_NAMES = several(TEXT, LEVELS, least=1)
EXPECTED: dict[str, Expected] = {
    "in_channels": CHANNELS, "out_channels": CHANNELS, "center_input_sample": BOOLEAN, "time_embedding_type": TEXT,
    "time_embedding_dim": optional(CHANNELS), "freq_shift": real(0.0), "flip_sin_to_cos": BOOLEAN,
    "mid_block_type": optional(TEXT), "layers_per_block": BLOCKS, "mid_block_scale_factor": POSITIVE,
    "down_block_types": BLOCK_NAMES, "up_block_types": BLOCK_NAMES, "block_out_channels": several(CHANNELS, LEVELS, least=1),
    "downsample_padding": whole(0, 1), "downsample_type": TEXT, "upsample_type": TEXT, "dropout": DROPOUT, "act_fn": TEXT,
    "attention_head_dim": optional(CHANNELS), "norm_num_groups": optional(CHANNELS), "attn_norm_num_groups": optional(CHANNELS),
    "norm_eps": POSITIVE, "resnet_time_scale_shift": TEXT, "add_attention": BOOLEAN, "class_embed_type": optional(TEXT),
    "num_class_embeds": optional(whole(0, 100_000)), "num_train_timesteps": ANYTHING,
    "sample_size": optional(either(SIZE, several(SIZE, 2, least=2))), "_no_label": optional(whole(0, 100_000)),
}  # fmt: skip
EXPECTED_OF_SCHEDULERS: dict[str, Expected] = {
    "sigma_min": POSITIVE, "sigma_max": POSITIVE, "beta_schedule": TEXT, "prediction_type": TEXT, "trained_betas": ANYTHING,
    "num_train_timesteps": COUNT, "beta_start": POSITIVE, "beta_end": POSITIVE,
}  # fmt: skip
CLASS = "UNet2DModel"
OLD_PREFIX = "UNetRes"  # of the names of blocks in older files
# Names of older files.
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# [cos, sin] instead of [sin, cos]: the rows of the matrix behind them change places
FLIPPED = single(
    lambda a: np.roll(a.T, a.shape[1] // 2, axis=0), lambda a: np.roll(a, a.shape[0] // 2, axis=0).T
)
LABEL = ("conditioning", "label", "embedding")
# a table without a row for "no label"
LABELS = single(lambda a: np.concatenate([a, np.full_like(a[:1], np.nan)]), lambda a: a[:-1])


def network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` for a config.json of diffusers, its shape and number of classes among them.

    Raises:
        RunError: the network has something that ours has not; it is named.
    """
    c = {"_no_label": None, **DEFAULTS, **config}
    if c.get("_class_name", CLASS) != CLASS:
        raise RunError(f"_class_name is {shown(c['_class_name'])}, expected {CLASS}")
    check(c, EXPECTED)
    # both from fine to coarse
    down = [kind.removeprefix(OLD_PREFIX) for kind in c["down_block_types"]]
    up = [kind.removeprefix(OLD_PREFIX) for kind in c["up_block_types"]][::-1]
    if not len(down) == len(up) == len(c["block_out_channels"]):
        raise RunError(
            f"there are {len(down)} down_block_types, {len(up)} up_block_types and "
            f"{len(c['block_out_channels'])} block_out_channels, expected equally many"
        )
    skip, labels, no_label = (
        any("Skip" in kind for kind in (*down, *up)),
        c["num_class_embeds"],
        c["_no_label"],
    )
    if c["class_embed_type"] is not None:
        raise RunError(
            f"class_embed_type = {c['class_embed_type']!r} of a UNet2DModel takes numbers or vectors for labels; ours are rows of a table, "
            "which is class_embed_type = None with num_class_embeds"
        )
    only = {
        "down_block_types": (down, all(kind in DOWN and ("Skip" in kind) == skip for kind in down)),
        "up_block_types": (up, all(kind in UP and ("Skip" in kind) == skip for kind in up)),
        "sample_size": (c["sample_size"], c["sample_size"] is not None),
        "out_channels": (
            c["out_channels"],
            c["out_channels"] == c["in_channels"] and (not skip or c["in_channels"] == 3),
        ),
        "time_embedding_type": (
            c["time_embedding_type"],
            c["time_embedding_type"] in ("positional", "fourier"),
        ),
        "time_embedding_dim": (
            c["time_embedding_dim"],
            c["time_embedding_dim"] in (None, 4 * c["block_out_channels"][0]),
        ),
        "freq_shift": (
            c["freq_shift"],
            c["freq_shift"] in (0, 1) or c["time_embedding_type"] == "fourier",
        ),
        "mid_block_type": (c["mid_block_type"], c["mid_block_type"] == "UNetMidBlock2D"),
        "act_fn": (c["act_fn"], c["act_fn"] in ("silu", "swish")),
        "num_class_embeds": (labels, labels is None or labels > 0),
        "_no_label": (no_label, no_label is None or 0 < no_label == (labels or 0) - 1),
        "resnet_time_scale_shift": (
            c["resnet_time_scale_shift"],
            c["resnet_time_scale_shift"] in ("default", "scale_shift"),
        ),
        "norm_num_groups": (c["norm_num_groups"], c["norm_num_groups"] is not None or skip),
    }
    if wrong := [f"{name} = {value!r}" for name, (value, good) in only.items() if not good]:
        raise RunError(f"no network of ours has {', '.join(wrong)} of a UNet2DModel")
    scale_shift = c["resnet_time_scale_shift"] == "scale_shift"
    if scale_shift and c["add_attention"] and c["attn_norm_num_groups"] is None:
        raise RunError(
            "with resnet_time_scale_shift and no attn_norm_num_groups the middle attention is not normalised; ours is"
        )
    size = c["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    widths, levels = c["block_out_channels"], len(down)
    attend = lambda kinds: tuple(height >> i for i in range(levels) if kinds[i].startswith("Attn"))  # noqa: E731
    middle = c["norm_num_groups"] or 0
    if c["attn_norm_num_groups"] not in (None, middle):
        raise RunError(
            f"attn_norm_num_groups is {c['attn_norm_num_groups']}, and norm_num_groups {middle}: ours are equal in the middle"
        )
    return {
        "name": "UNet",
        "shape": (height, width, c["in_channels"]),
        "num_classes": (labels or 0) - (no_label is not None),
        "nf": widths[0],
        "ch_mult": tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        "num_res_blocks": c["layers_per_block"],
        "attn_resolutions": attend(down),
        "attention": {
            "head_features": c["attention_head_dim"] or 0,
            "up": "last" if skip else "every",
            "up_resolutions": attend(up),
            "middle": c["add_attention"],
        },
        "dropout": c["dropout"],
        "embedding": "fourier"
        if c["time_embedding_type"] == "fourier"
        else ("positional_open", "positional")[c["freq_shift"]],
        "conditioning": {"label_into": "embedding", "scale_shift": scale_shift},
        "normalisation": {
            "groups": 0 if skip else c["norm_num_groups"],
            "middle_groups": middle,
            "attention_groups": 32 if skip else c["norm_num_groups"],
            # there the parentheses of min((a + b) // 4, 32) are lost in blocks with attention,
            # which makes 32 of it
            "up_groups": 32 if skip else 0,
            "eps": c["norm_eps"],
        },
        "pyramids": {
            "input": "input_skip" if skip else "none",
            "output": "output_skip" if skip else "none",
        },
        "resampling": {
            "resblock_type": "biggan" if skip else "ddpm",
            "down_steps": tuple(_step(kind, c["downsample_type"]) for kind in down[:-1]),
            "up_steps": tuple(_step(kind, c["upsample_type"]) for kind in up[1:]),
            "symmetric": c["downsample_padding"] == 1,
            "shortcut": skip,
            "fir": skip,
        },
        "residual": {
            "skip_rescale": skip,
            "middle_rescale": float(c["mid_block_scale_factor"]),
        },
        "scale_by_sigma": c["time_embedding_type"] == "fourier",
        "centered": not c["center_input_sample"],
    }


def process(config: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return our `sde` and `denoiser` sections for a network and its scheduler_config.json, which may be empty: the published values then.

    Raises:
        RunError: the schedule has no counterpart here.
    """
    c = {**DEFAULTS, **config}
    check(
        scheduler, {k: v for k, v in EXPECTED_OF_SCHEDULERS.items() if k in scheduler}, "scheduler "
    )
    if c["time_embedding_type"] == "fourier":
        factor = (
            2 if c["center_input_sample"] else 1
        )  # on [-1, 1] the noise of [0, 1] is twice as large
        low, high = scheduler.get("sigma_min", 0.01), scheduler.get("sigma_max", 1348.0)
        units = ("unit_score", "unit_sigma") if c["center_input_sample"] else ("score", "sigma")
        sde = {"name": "VE", "sigma_min": factor * low, "sigma_max": factor * high}
        return {"sde": sde, "denoiser": dict(zip(("prediction", "inputs"), units, strict=True))}
    kind, predicted = (
        scheduler.get("beta_schedule", "linear"),
        scheduler.get("prediction_type", "epsilon"),
    )
    predictions = {"epsilon": "noise", "sample": "x0", "v_prediction": "v"}
    if (
        kind != "linear"
        or scheduler.get("trained_betas") is not None
        or predicted not in predictions
    ):
        raise RunError(
            f"no process of ours has beta_schedule {kind!r} with prediction_type {predicted!r} of a scheduler"
        )
    steps = scheduler.get("num_train_timesteps", 1000)
    if steps != 1000:
        raise RunError(
            f"the scheduler has {steps} steps, where the time that our networks are told reaches 999"
        )
    low, high = steps * scheduler.get("beta_start", 1e-4), steps * scheduler.get("beta_end", 0.02)
    return {
        "sde": {"name": "VP", "beta_min": low, "beta_max": high},
        "denoiser": {"prediction": predictions[predicted], "inputs": "time"},
    }


def diffusers_rules(net: UNet, flip: bool, no_label: bool = False) -> list[Rule]:
    """Return the rules for the weights of a `UNet2DModel`; `flip` is its flip_sin_to_cos, `no_label`: its last label means "no label"."""
    rules, last = [], len(net.down) - 1
    if net.conditioning is not None:
        fourier = net.conditioning.frequencies is not None
        rules += (
            [Rule(("conditioning", "frequencies"), ("time_proj.weight",), SAME)] if fourier else []
        )
        first = FLIPPED if flip and not fourier else TRANSPOSED
        rules += _pair("time_embedding.linear_1", ("conditioning", "dense0"), first)
        rules += _pair("time_embedding.linear_2", ("conditioning", "dense1"), TRANSPOSED)
        if net.conditioning.label is not None:
            layout = SAME if no_label else LABELS
            rules.append(Rule(LABEL, ("class_embedding.weight",), layout, not no_label))
    rules += _pair("conv_in", ("conv_in",), OIHW)
    for way in ("down", "up"):
        for i, level in enumerate(getattr(net, way)):
            prefix, path = f"{way}_blocks.{i}", (way, i)
            for j, block in enumerate(level.blocks):
                rules += _block(f"{prefix}.resnets.{j}", (*path, "blocks", j), block)
                if block.attention is not None:
                    index = 0 if way == "up" and level.merge is not None else j
                    rules += _attention(
                        f"{prefix}.attentions.{index}", (*path, "blocks", j, "attention")
                    )
            if level.resample is not None:
                name = (
                    f"{prefix}.{way}samplers.0" if level.merge is None else f"{prefix}.resnet_{way}"
                )
                if hasattr(level.resample, "conv0"):
                    rules += _block(name, (*path, "resample"), level.resample)
                else:
                    rules += _pair(f"{name}.conv", (*path, "resample", "conv"), OIHW)
            if level.merge is not None and way == "down":
                rules += _pair(f"{prefix}.skip_conv", (*path, "merge", "conv"), OIHW)
            elif level.merge is not None:
                norm, conv = (
                    (f"{prefix}.skip_norm", f"{prefix}.skip_conv")
                    if i < last
                    else ("conv_norm_out", "conv_out")
                )
                rules += _pair(norm, (*path, "merge", "norm"), SAME, "scale") + _pair(
                    conv, (*path, "merge", "conv"), OIHW
                )
    for j, block in enumerate((net.middle0, net.middle1)):
        rules += _block(f"mid_block.resnets.{j}", (f"middle{j}",), block)
    if net.middle0.attention is not None:
        rules += _attention("mid_block.attentions.0", ("middle0", "attention"))
    if net.conv_out is not None:
        rules += _pair("conv_norm_out", ("norm_out",), SAME, "scale") + _pair(
            "conv_out", ("conv_out",), OIHW
        )
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
    return [
        Rule((*path, kernel), (f"{prefix}.weight",), layout),
        Rule((*path, "bias"), (f"{prefix}.bias",), SAME),
    ]


def _block(prefix: str, path: Path, block) -> list[Rule]:
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


def _step(kind: str, resample_type: str) -> str:
    by_block = (
        kind.startswith("Resnet")
        or "Skip" in kind
        or (kind.startswith("Attn") and resample_type == "resnet")
    )
    return "biggan" if by_block else "ddpm"
