r"""Networks of diffusers' `UNet2DModel` (github.com/huggingface/diffusers).

Weights are in safetensors, settings in config.json. Its block types are levels of our `UNet`.
"Skip" ones are NCSN++ (FIR, both image pyramids, residual sums over :math:`\sqrt 2`), the others
DDPM. Where one network of diffusers mixes what one of ours cannot, it is refused by name.

Labels (`num_class_embeds`) add a row of a table to the embedding of time, as ours do with
`label_into` "embedding". Our table has one row more, "no label". There a missing label is an error,
so here that row is NaN, a loud answer; training on begins at the mean of the labels
(`with_no_label`). Of a network that was trained with its last label meaning "none",
`"_no_label": num_class_embeds - 1` in config.json says so: we write it where that row is no NaN,
and diffusers passes over it.
"""

from collections.abc import Mapping
from typing import Any

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


def network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` for a config.json of diffusers.

    Among them are its shape and its number of classes.

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
    skip = _has_skips(down, up)
    _check_counterpart(c, down, up)
    fourier = c["time_embedding_type"] == "fourier"
    size = c["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    widths = c["block_out_channels"]
    first = widths[0]
    labels = c["num_class_embeds"] or 0
    return {
        "name": "UNet",
        "shape": (height, width, c["in_channels"]),
        "num_classes": labels - (c["_no_label"] is not None),
        "nf": first,
        "ch_mult": tuple(w // first if w % first == 0 else w / first for w in widths),
        "num_res_blocks": c["layers_per_block"],
        "attn_resolutions": _attending(down, height),
        "attention": {
            "head_features": c["attention_head_dim"] or 0,
            "up": "last" if skip else "every",
            "up_resolutions": _attending(up, height),
            "middle": c["add_attention"],
        },
        "dropout": c["dropout"],
        "embedding": "fourier" if fourier else ("positional_open", "positional")[c["freq_shift"]],
        "conditioning": {
            "label_into": "embedding",
            "scale_shift": c["resnet_time_scale_shift"] == "scale_shift",
        },
        **_groups_of_layers(c, down, up),
        "scale_by_sigma": fourier,
        "centered": not c["center_input_sample"],
    }


def _groups_of_layers(c: Mapping[str, Any], down: list[str], up: list[str]) -> dict[str, Any]:
    """Return the groups of settings that concern the layers: how they normalise and resample."""
    skip = _has_skips(down, up)
    return {
        "normalisation": {
            "groups": 0 if skip else c["norm_num_groups"],
            "middle_groups": c["norm_num_groups"] or 0,
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
    }


def _check_counterpart(c: Mapping[str, Any], down: list[str], up: list[str]) -> None:
    """Raise a RunError if a network has something that ours has not.

    `c` is its configuration with defaults; the kinds of blocks are given from fine to coarse.
    """
    skip = _has_skips(down, up)
    labels = c["num_class_embeds"]
    no_label = c["_no_label"]
    if c["class_embed_type"] is not None:
        raise RunError(
            f"class_embed_type = {c['class_embed_type']!r} of a UNet2DModel takes numbers or "
            "vectors for labels; ours are rows of a table, which is class_embed_type = None with "
            "num_class_embeds"
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
            "with resnet_time_scale_shift and no attn_norm_num_groups the middle attention is not "
            "normalised; ours is"
        )
    middle = c["norm_num_groups"] or 0
    if c["attn_norm_num_groups"] not in (None, middle):
        raise RunError(
            f"attn_norm_num_groups is {c['attn_norm_num_groups']}, and norm_num_groups {middle}: "
            "ours are equal in the middle"
        )


def _has_skips(down: list[str], up: list[str]) -> bool:
    """Tell whether a network has blocks with image pyramids."""
    return any("Skip" in kind for kind in (*down, *up))


def _attending(kinds: list[str], height: int) -> tuple[int, ...]:
    """Return the heights of the levels, from fine to coarse, whose blocks have attention."""
    return tuple(height >> i for i, kind in enumerate(kinds) if kind.startswith("Attn"))


def process(config: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return our `sde` and `denoiser` sections for a network.

    Args:
        config: its config.json.
        scheduler: its scheduler_config.json; what is missing there has the published value.

    Raises:
        RunError: the schedule has no counterpart here.
    """
    c = {**DEFAULTS, **config}
    check(
        scheduler, {k: v for k, v in EXPECTED_OF_SCHEDULERS.items() if k in scheduler}, "scheduler "
    )
    if c["time_embedding_type"] == "fourier":
        return _process_of_sigma(scheduler, unit=c["center_input_sample"])
    kind = scheduler.get("beta_schedule", "linear")
    predicted = scheduler.get("prediction_type", "epsilon")
    predictions = {"epsilon": "noise", "sample": "x0", "v_prediction": "v"}
    known = kind == "linear" and scheduler.get("trained_betas") is None
    if not known or predicted not in predictions:
        raise RunError(
            f"no process of ours has beta_schedule {kind!r} with prediction_type {predicted!r} of "
            "a scheduler"
        )
    steps = scheduler.get("num_train_timesteps", 1000)
    if steps != 1000:
        raise RunError(
            f"the scheduler has {steps} steps, where the time that our networks are told reaches "
            "999"
        )
    sde = {
        "name": "VP",
        "beta_min": steps * scheduler.get("beta_start", 1e-4),
        "beta_max": steps * scheduler.get("beta_end", 0.02),
    }
    denoiser = {"prediction": predictions[predicted], "inputs": "time"}
    return {"sde": sde, "denoiser": denoiser}


def _process_of_sigma(scheduler: Mapping[str, Any], unit: bool) -> dict[str, Any]:
    """Return our sections for a network whose input is sigma; `unit`: on data in [0, 1]."""
    factor = 2 if unit else 1  # on [-1, 1] the noise of [0, 1] is twice as large
    sde = {
        "name": "VE",
        "sigma_min": factor * scheduler.get("sigma_min", 0.01),
        "sigma_max": factor * scheduler.get("sigma_max", 1348.0),
    }
    denoiser = {"prediction": "score", "inputs": "sigma"}
    if unit:
        denoiser = {key: f"unit_{value}" for key, value in denoiser.items()}
    return {"sde": sde, "denoiser": denoiser}


def _step(kind: str, resample_type: str) -> str:
    """Return how a level changes the resolution: by a block, or by a convolution."""
    by_block = kind.startswith("Resnet") or "Skip" in kind
    if kind.startswith("Attn") and resample_type == "resnet":
        by_block = True
    return "biggan" if by_block else "ddpm"
