"""The rarer settings of a `UNet`, in groups by what they are about.

`UNet` takes a group as its class or as a dictionary of its settings:
``resampling=ResamplingSettings(fir=True)`` is the same as ``resampling={"fir": True}``.
In a configuration a group is a section, `config.net.resampling.fir`.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from .settings import check_above, check_at_least, check_choice

RESBLOCK_TYPES = ("biggan", "ddpm")
INPUT_PYRAMIDS = ("none", "input_skip", "residual")
OUTPUT_PYRAMIDS = ("none", "output_skip", "residual")
COMBINATIONS = ("sum", "cat")
BLOCKS_WITH_ATTENTION = ("last", "every")


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """Where attention stands beside `attn_resolutions`, and how it looks.

    Attributes:
        head_features: channels of a head; 0 makes one head of all channels.
        up: the blocks of a level that attention follows on the way up: the "last" one, as in the
            score-SDE papers, or "every" one.
        up_resolutions: heights at which attention stands on the way up; None takes
            `attn_resolutions`.
        middle: whether the first block of the middle has attention.
    """

    head_features: int = 0
    up: str = "last"
    up_resolutions: Sequence[int] | None = None
    middle: bool = True

    def __post_init__(self):
        check_at_least(0, **{"attention.head_features": self.head_features})
        check_choice("attention.up", self.up, BLOCKS_WITH_ATTENTION)


@dataclass(frozen=True, kw_only=True)
class ConditioningSettings:
    """How the noise input and the label reach the blocks.

    Attributes:
        fourier_scale: standard deviation of the random frequencies of a Fourier embedding.
        label_into: what a label is added to, a name of `LABEL_INTO`.
        scale_shift: the embedding scales and shifts the normalised state of a block, instead of
            being added to the state before it is normalised.
    """

    fourier_scale: float = 16.0
    label_into: str = "hidden"
    scale_shift: bool = False

    def __post_init__(self):
        check_above(0, **{"conditioning.fourier_scale": self.fourier_scale})


@dataclass(frozen=True, kw_only=True)
class NormalisationSettings:
    """Group normalisation.

    `groups` = 0 makes one group of every four channels, but at most 32 groups.

    Attributes:
        groups: number of groups of every normalisation that is not named below.
        middle_groups: number of groups in the middle and before the output; None takes `groups`.
        attention_groups: number of groups before attention outside of the middle; 0 takes `groups`.
        up_groups: number of groups at the entrance of a block on the way up, at a level with
            attention; 0 takes `groups`.
        eps: what is added to every variance.
    """

    groups: int = 0
    middle_groups: int | None = None
    attention_groups: int = 0
    up_groups: int = 0
    eps: float = 1e-6

    def __post_init__(self):
        numbers = {
            name: getattr(self, name) for name in ("groups", "attention_groups", "up_groups")
        }
        if self.middle_groups is not None:
            numbers["middle_groups"] = self.middle_groups
        check_at_least(0, **{f"normalisation.{name}": number for name, number in numbers.items()})
        check_above(0, **{"normalisation.eps": self.eps})


@dataclass(frozen=True, kw_only=True)
class PyramidSettings:
    """The images beside the network, see `models.pyramids`.

    Attributes:
        input: on the way down, score_sde's `progressive_input`: "none", "input_skip" or "residual".
        output: on the way up, score_sde's `progressive`: "none", "output_skip" or "residual".
        combine: how "input_skip" joins image and state: their "sum", or both side by side ("cat").
    """

    input: str = "none"
    output: str = "none"
    combine: str = "sum"

    def __post_init__(self):
        check_choice("pyramids.input", self.input, INPUT_PYRAMIDS)
        check_choice("pyramids.output", self.output, OUTPUT_PYRAMIDS)
        check_choice("pyramids.combine", self.combine, COMBINATIONS)


@dataclass(frozen=True, kw_only=True)
class ResamplingSettings:
    """How the resolution changes from level to level.

    Attributes:
        resblock_type: "biggan" changes the resolution inside a residual block, "ddpm" between
            residual blocks.
        down_steps: the type of each step down, from the finest level to the coarsest; None takes
            `resblock_type` for all.
        up_steps: the type of each step up, in the same order of levels; None takes
            `resblock_type` for all.
        with_conv: a step of type "ddpm" has a convolution.
        symmetric: on the way down that convolution pads on all sides, not only behind the image.
        shortcut: a block that only changes the resolution has a 1 x 1 convolution on its shortcut.
        fir: low-pass filter with `kernel`, instead of taking means and nearest neighbours.
        kernel: the filter along one axis; it is divided by its sum.
    """

    resblock_type: str = "biggan"
    down_steps: Sequence[str] | None = None
    up_steps: Sequence[str] | None = None
    with_conv: bool = True
    symmetric: bool = False
    shortcut: bool = True
    fir: bool = False
    kernel: Sequence[float] = (1, 3, 3, 1)

    def __post_init__(self):
        check_choice("resampling.resblock_type", self.resblock_type, RESBLOCK_TYPES)
        if self.fir and (not self.kernel or not sum(self.kernel)):
            raise ValueError(
                f"need a resampling.kernel whose sum is not 0, got {tuple(self.kernel)}"
            )

    def steps(self, direction: str, number: int) -> tuple[str, ...]:
        """Return the types of the steps "down" or "up", from the finest level to the coarsest.

        Raises:
            ValueError: the settings name other types, or not `number` of them.
        """
        name = f"{direction}_steps"
        given = getattr(self, name)
        if given is None:
            return (self.resblock_type,) * number
        if len(given) != number or not set(given) <= set(RESBLOCK_TYPES):
            raise ValueError(f"need {number} resampling.{name}, each biggan or ddpm, got {given}")
        return tuple(given)


@dataclass(frozen=True, kw_only=True)
class ResidualSettings:
    """Residual sums and the kernels at the end of their branches.

    Attributes:
        skip_rescale: divide residual sums by sqrt 2, which keeps their variance.
        middle_rescale: the divisor of residual sums in the middle; None takes that of the others.
        init_scale: scale of the kernels that end a residual branch or the network; 0 means 1e-10.
    """

    skip_rescale: bool = True
    middle_rescale: float | None = None
    init_scale: float = 0.0

    def __post_init__(self):
        check_at_least(0, **{"residual.init_scale": self.init_scale})
        if self.middle_rescale is not None:
            check_above(0, **{"residual.middle_rescale": self.middle_rescale})


class Groups(NamedTuple):
    """The groups of a network, each under the name of its parameter of `UNet`."""

    attention: AttentionSettings
    conditioning: ConditioningSettings
    normalisation: NormalisationSettings
    pyramids: PyramidSettings
    resampling: ResamplingSettings
    residual: ResidualSettings


def as_groups(**given: Any) -> Groups:
    """Return the groups from their classes, dictionaries or sections of a configuration, by name.

    None stands for the defaults.

    Raises:
        ValueError: a setting that a group does not have, a wrong value, or something that is no
            group.
    """
    groups = {}
    for name, kind in Groups.__annotations__.items():
        groups[name] = as_settings(name, kind, given[name])
    return Groups(**groups)


def as_settings(name: str, kind: type, given: Any) -> Any:
    """Return the group `name`, an object of the class `kind`; see `as_groups`."""
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    if not hasattr(given, "keys"):
        raise ValueError(
            f"UNet needs {name} as {kind.__name__} or as a dictionary of its settings, "
            f"got {given!r}"
        )
    known = [field.name for field in fields(kind)]
    for key in given.keys():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, 1) or known
            meant = " or ".join(f"{name}.{setting}" for setting in nearest)
            raise ValueError(f"UNet has no setting {name}.{key}; did you mean {meant}?")
    return kind(**given)
