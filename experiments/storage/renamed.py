"""Settings of objects that had another name before.

Run directories that were written before still open: `with_present_names` translates what they
saved. A command line or a configuration file that uses an old name is answered with the present
one.
"""

from typing import Any

# class -> {old name of a setting: present name, which is "group.setting" in a group}
SAMPLERS: dict[str, dict[str, str]] = {
    "UniPC": {"p": "predictor_order", "b": "variant"},
    "SASolver": {"predictor": "predictor_steps", "corrector": "corrector_steps"},
    "FewSteps": {"levels": "noise_levels", "asked": "network_levels"},
}
NETWORKS: dict[str, dict[str, str]] = {
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
RENAMED = SAMPLERS | NETWORKS


def present_name(owner: Any, setting: str) -> str | None:
    """Return the present name of a setting of the class `owner`, or None if it was not renamed."""
    names = RENAMED.get(owner, {}) if isinstance(owner, str) else {}
    return names.get(setting)


def with_present_names(section: Any) -> Any:
    """Return a section {name, **settings}, plain JSON, with its settings as they are called now.

    The settings may be sections, too. Where both the old and the present name of a setting are
    given, the present one counts.
    """
    if not isinstance(section, dict):
        return section
    owner = section.get("name")
    present: dict[str, Any] = {}
    renamed: dict[str, Any] = {}
    for setting, value in section.items():
        name = present_name(owner, setting)
        target = present if name is None else renamed
        target[name or setting] = with_present_names(value)
    for name, value in renamed.items():
        group, dot, inner = name.partition(".")
        if not dot:
            present.setdefault(name, value)
        elif isinstance(present.setdefault(group, {}), dict):
            present[group].setdefault(inner, value)
    return present
