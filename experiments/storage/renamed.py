"""Settings of networks that have other names now.

Run directories that were written before still open: `with_new_names` translates what they saved.
A command line or a configuration file that uses an old name is answered with the new one.
"""

from collections.abc import Mapping
from typing import Any

# class -> {its setting before: the setting now, "group.setting"}
RENAMED: dict[str, dict[str, str]] = {
    "UNet": {
        "head_features": "attention.head_features",
        "attn_up": "attention.up",
        "attn_up_resolutions": "attention.up_resolutions",
        "middle_attention": "attention.middle",
        "fourier_scale": "conditioning.fourier_scale",
        "label_into": "conditioning.label_into",
        "scale_shift": "conditioning.scale_shift",
        "groups": "normalisation.groups",
        "middle_groups": "normalisation.middle_groups",
        "attention_groups": "normalisation.attention_groups",
        "attn_up_groups": "normalisation.up_groups",
        "eps": "normalisation.eps",
        "progressive_input": "pyramids.input",
        "progressive": "pyramids.output",
        "progressive_combine": "pyramids.combine",
        "resblock_type": "resampling.resblock_type",
        "down_steps": "resampling.down_steps",
        "up_steps": "resampling.up_steps",
        "resamp_with_conv": "resampling.with_conv",
        "symmetric_down": "resampling.symmetric",
        "resampled_shortcut": "resampling.shortcut",
        "fir": "resampling.fir",
        "fir_kernel": "resampling.kernel",
        "skip_rescale": "residual.skip_rescale",
        "middle_rescale": "residual.middle_rescale",
        "init_scale": "residual.init_scale",
    },
}


def new_name(owner: Any, setting: str) -> str | None:
    """Return the name of now for a setting of the class `owner`, or None if it was not renamed."""
    table = RENAMED.get(owner, {}) if isinstance(owner, str) else {}
    return table.get(setting)


def with_new_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration, plain JSON, with the names that its settings have now."""
    net = saved.get("net")
    if not isinstance(net, dict):
        return dict(saved)
    renamed = {setting: new_name(net.get("name"), setting) for setting in net}
    translated = {setting: net[setting] for setting, new in renamed.items() if new is None}
    for setting, new in renamed.items():
        if new is None:
            continue
        group, _, name = new.partition(".")
        settings = translated.get(group, {})
        if isinstance(settings, dict):
            translated[group] = {name: net[setting], **settings}
    return {**saved, "net": translated}
