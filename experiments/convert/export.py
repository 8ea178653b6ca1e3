r"""Our NCSN++ and DDPM as a `UNet2DModel` of diffusers.

There DDPM has attention behind every block on the way up, where score_sde's has it behind the last
one of a level. Attention of zeros adds nothing to its input, so that is what stands in the places
that ours leaves free; reading such a file leaves it out again. "No label" becomes the last label
there, unless nothing is known of it (see `diffusers`).
"""

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

import models
from models.unet_settings import Groups, as_groups

from ..errors import RunError
from ..run.loading import load
from ..storage.writing import check_free, write_json
from . import rules
from .diffusers import DEFAULTS, network
from .diffusers_weights import LABEL, diffusers_rules
from .safetensors import write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
AUGMENTATION = ("conditioning", "augmentation", "kernel")
# Settings that change how a network is trained or computed, not what.
FREE = (
    "dropout",
    "dtype",
    "remat",
    "residual.init_scale",
    "conditioning.fourier_scale",
    "resampling.resblock_type",
    "attention.up",
    "name",
)


def export(workdir: str | Path, folder: str | Path) -> None:
    """Write the averaged weights of a run to `folder`, as `UNet2DModel.from_pretrained` reads them.

    Raises:
        RunError: there is no run, or its network is none that a UNet2DModel can be.
    """
    check_free(Path(folder), ("config.json", WEIGHTS))
    loaded = load(workdir)
    net = loaded.config.net.to_dict()
    params = loaded.denoiser.net.params  # pyright: ignore[reportFunctionMemberAccess]
    config, weights = to_diffusers(net, loaded.run.facts.shape, params)
    write_json(Path(folder) / "config.json", config)
    write_safetensors(Path(folder) / WEIGHTS, weights)


def to_diffusers(
    net: Mapping[str, Any], shape: tuple[int, ...], params: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the config.json and the weights of a UNet2DModel that computes what our network does.

    Raises:
        RunError: no UNet2DModel does; the settings that stand in the way are named.
    """
    if net["name"] != "UNet":
        raise RunError(f"a UNet2DModel can be our UNet, not {net['name']}")
    own = rules.flatten(params)
    own.pop(AUGMENTATION, None)  # which adds nothing to what is drawn
    rows = own.get(LABEL, np.zeros((1, 0)))  # of labels, and of "no label"
    classes, no_label = len(rows) - 1, not np.isnan(rows[-1]).all() and len(rows) > 1
    net = {**net, "num_classes": classes}
    config: dict[str, Any] = {
        **_config(_filled(net), shape),
        "num_class_embeds": classes + no_label or None,
    }
    config |= {"_no_label": classes} if no_label else {}
    theirs = network(config)
    mine, other = _effective(net, shape), _effective(theirs, shape)
    if wrong := [f"{name} = {mine[name]!r}" for name in mine if mine[name] != other[name]]:
        raise RunError(f"no UNet2DModel of diffusers is a network with {', '.join(wrong)}")
    del theirs["shape"], theirs["name"]
    abstract = nnx.eval_shape(lambda: models.UNet(shape, **theirs, rngs=models.rngs_of(0)))
    template = rules.flatten(models.split(abstract).params)
    if homeless := own.keys() - template.keys():
        raise RunError(
            "a UNet2DModel has no place for our parameter "
            f"{'.'.join(map(str, sorted(homeless, key=str)[0]))}"
        )
    complete = {
        path: np.asarray(own[path]) if path in own else np.zeros(leaf.shape, leaf.dtype)
        for path, leaf in template.items()
    }
    names = diffusers_rules(abstract, config["flip_sin_to_cos"], no_label)
    return config, rules.write(names, rules.unflatten(complete, models.split(abstract).params))


def idle_attention(weights: Mapping[str, np.ndarray], net: Mapping[str, Any]) -> list[str]:
    """Return the names of attention on the way up that adds nothing.

    There are none unless all attention but the last one of each level adds nothing.
    """
    last = f".attentions.{net['num_res_blocks']}."
    names = [
        name
        for name in weights
        if name.startswith("up_blocks.") and ".attentions." in name and last not in name
    ]
    idle = net["attention"]["up"] == "every" and not any(weights[name].any() for name in names)
    return names if idle else []


def _config(net: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the config.json that comes nearest."""
    skip, levels = net["pyramids.output"] == "output_skip", len(net["ch_mult"])
    attend_up = net["attention.up_resolutions"]
    if attend_up is None:
        attend_up = net["attn_resolutions"]
    groups, middle_groups = net["normalisation.groups"], net["normalisation.middle_groups"]
    scale_shift = net["conditioning.scale_shift"]

    def kind(level: int, attend: Any, way: str) -> str:
        return (
            ("Attn" if shape[0] >> level in attend else "")
            + ("Skip" if skip else "")
            + f"{way}Block2D"
        )

    return {
        **DEFAULTS,
        "_class_name": "UNet2DModel",
        "sample_size": shape[0] if shape[0] == shape[1] else list(shape[:2]),
        "in_channels": shape[2],
        "out_channels": shape[2],
        "center_input_sample": not net["centered"],
        "time_embedding_type": "fourier" if net["embedding"] == "fourier" else "positional",
        "freq_shift": int(net["embedding"] == "positional"),
        "flip_sin_to_cos": False,
        "layers_per_block": net["num_res_blocks"],
        "mid_block_scale_factor": _divisor(net),
        "down_block_types": [kind(i, net["attn_resolutions"], "Down") for i in range(levels)],
        "up_block_types": [kind(i, attend_up, "Up") for i in reversed(range(levels))],
        "block_out_channels": [round(net["nf"] * m) for m in net["ch_mult"]],
        "downsample_padding": int(net["resampling.symmetric"]),
        "attention_head_dim": net["attention.head_features"] or None,
        "norm_num_groups": (groups if middle_groups is None else middle_groups) or None,
        "norm_eps": net["normalisation.eps"],
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        "attn_norm_num_groups": groups if scale_shift else None,
        "add_attention": net["attention.middle"],
    }


def _effective(given: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what settings amount to, so that two ways of saying the same compare equal."""
    net = _filled(given)
    levels, widths = range(len(net["ch_mult"])), [round(net["nf"] * m) for m in net["ch_mult"]]
    places = lambda attend: tuple(i for i in levels if shape[0] >> i in attend)  # noqa: E731
    down, up = places(net["attn_resolutions"]), net["attention.up_resolutions"]
    up = down if up is None else places(up)
    usual = lambda groups, width: groups or min(width // 4, 32)  # noqa: E731
    steps = [net["resampling.resblock_type"]] * (len(widths) - 1)
    groups, middle_groups = net["normalisation.groups"], net["normalisation.middle_groups"]
    # what is concatenated on the way up, at a level: from the level below (or this one), and kept
    # on the way down (or from above)
    entering = {
        i: {widths[i] + w for w in (widths[i], widths[max(i - 1, 0)])}
        | {widths[min(i + 1, levels[-1])] + widths[i]}
        for i in up
    }
    amounts = {
        **{k: v for k, v in net.items() if k not in FREE},
        "ch_mult": tuple(widths),
        "attn_resolutions": down,
        "attention.up_resolutions": up,
        "resampling.down_steps": list(net["resampling.down_steps"] or steps),
        "resampling.up_steps": list(net["resampling.up_steps"] or steps),
        "residual.middle_rescale": _divisor(net),
        "normalisation.middle_groups": usual(
            groups if middle_groups is None else middle_groups, widths[-1]
        ),
        "normalisation.attention_groups": [
            usual(net["normalisation.attention_groups"] or groups, widths[i]) for i in down + up
        ],
        "normalisation.up_groups": [
            usual(net["normalisation.up_groups"] or groups, width)
            for i in up
            for width in sorted(entering[i])
        ],
    }
    if not net["resampling.fir"]:
        amounts["resampling.kernel"] = ()
    if net["pyramids.input"] != "input_skip":
        amounts["pyramids.combine"] = ""
    if not net["num_classes"]:
        amounts["conditioning.label_into"] = ""
    down_steps, up_steps = amounts["resampling.down_steps"], amounts["resampling.up_steps"]
    if "ddpm" not in down_steps:
        amounts["resampling.symmetric"] = False
    if "ddpm" not in down_steps + up_steps:
        amounts["resampling.with_conv"] = True
    if "biggan" not in down_steps + up_steps:
        amounts["resampling.shortcut"] = False
    return {k: v for k, v in amounts.items() if k != "shape"}


def _filled(net: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the defaults of `UNet`; one of a group is "group.setting"."""
    known = inspect.signature(models.UNet.__init__).parameters
    names = [name for name in known if name not in ("self", "rngs", "shape", *Groups._fields)]
    filled = {name: net.get(name, known[name].default) for name in names}
    groups = as_groups(**{name: net.get(name) for name in Groups._fields})
    for group, settings in groups._asdict().items():
        for name, value in asdict(settings).items():
            filled[f"{group}.{name}"] = tuple(value) if isinstance(value, list) else value
    return filled


def _divisor(net: Mapping[str, Any]) -> float:
    """Return what the sum of a residual block in the middle is divided by."""
    own = float(np.sqrt(2)) if net["residual.skip_rescale"] else 1.0
    middle = net["residual.middle_rescale"]
    return own if middle is None else float(middle)
