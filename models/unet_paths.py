"""The way down, the middle and the way up of a `UNet`, built level by level.

The random keys are drawn in the order in which the parts are made. That order is part of what a
seed means, so it must not change.
"""

from typing import NamedTuple

from flax import nnx

from .layers import ResBlock, Style
from .pyramids import InputResidual, InputSkip, OutputResidual, OutputSkip, resample_with
from .unet_settings import Groups


class Level(nnx.Module):
    """One resolution of a U-Net.

    Args:
        blocks: the residual blocks.
        resample: the step to the next resolution; None at the last one.
        merge: what joins the image beside the network to the state; None without a pyramid.
    """

    def __init__(self, blocks: list, resample: nnx.Module | None, merge: nnx.Module | None):
        self.blocks = nnx.List(blocks)
        self.resample = resample
        self.merge = merge


class Plan(NamedTuple):
    """What the parts of a network have in common. Levels go from the finest to the coarsest."""

    channels: int  # of the image
    nf: int  # channels in front of the first block
    heights: tuple[int, ...]  # of the levels
    widths: tuple[int, ...]  # channels of the levels
    num_res_blocks: int
    emb_features: int  # of the embedding; 0: there is none
    attn_resolutions: tuple[int, ...]
    down_steps: tuple[str, ...]  # a type of ResamplingSettings for each step between levels
    up_steps: tuple[str, ...]
    groups: Groups
    style: Style
    middle_style: Style

    def block(self, features_in: int, features_out: int, rngs: nnx.Rngs, **settings) -> ResBlock:
        """Return a residual block outside of the middle."""
        return ResBlock(
            features_in, features_out, self.emb_features, self.style, rngs=rngs, **settings
        )


def down_path(plan: Plan, rngs: nnx.Rngs) -> tuple[list[Level], list[int]]:
    """Return the levels on the way down, and the channels of each state that the way up needs."""
    levels = []
    features = plan.nf
    skips = [features]
    for level, width in enumerate(plan.widths):
        attend = plan.heights[level] in plan.attn_resolutions
        blocks = []
        for _ in range(plan.num_res_blocks):
            blocks.append(plan.block(features, width, rngs, attend=attend))
            features = width
            skips.append(features)
        if level == len(plan.widths) - 1:
            levels.append(Level(blocks, None, None))
            continue
        resample = resolution_step(plan, "down", plan.down_steps[level], features, rngs)
        merge = input_pyramid(plan, level, rngs)
        levels.append(Level(blocks, resample, merge))
        if merge is not None:
            features = merge.features_out
        skips.append(features)
    return levels, skips


def middle(plan: Plan, rngs: nnx.Rngs) -> tuple[ResBlock, ResBlock]:
    """Return the two blocks at the coarsest resolution, of which the first may have attention."""
    width = plan.widths[-1]
    sizes = (width, width, plan.emb_features, plan.middle_style)
    first = ResBlock(*sizes, attend=plan.groups.attention.middle, rngs=rngs)
    second = ResBlock(*sizes, rngs=rngs)
    return first, second


def up_path(plan: Plan, skips: list[int], rngs: nnx.Rngs) -> list[Level]:
    """Return the levels on the way up, from the coarsest to the finest.

    Args:
        plan: what the parts of the network have in common.
        skips: channels of the states that the way down kept, in its order.
        rngs: the random keys of the parameters.
    """
    attention = plan.groups.attention
    resolutions = attention.up_resolutions
    if resolutions is None:
        resolutions = plan.attn_resolutions
    skips = list(skips)
    levels = []
    features = plan.widths[-1]
    for level in reversed(range(len(plan.widths))):
        with_attention = plan.heights[level] in resolutions
        groups_in = plan.groups.normalisation.up_groups if with_attention else 0
        blocks = []
        for i in range(plan.num_res_blocks + 1):
            chosen = attention.up == "every" or i == plan.num_res_blocks
            settings = {"attend": with_attention and chosen, "groups_in": groups_in}
            features_in = features + skips.pop()
            features = plan.widths[level]
            blocks.append(plan.block(features_in, features, rngs, **settings))
        merge = output_pyramid(plan, level, rngs)
        resample = None
        if level > 0:
            resample = resolution_step(plan, "up", plan.up_steps[level - 1], features, rngs)
        levels.append(Level(blocks, resample, merge))
    return levels


def resolution_step(
    plan: Plan, direction: str, step_type: str, features: int, rngs: nnx.Rngs
) -> nnx.Module:
    """Return what changes the resolution "down" or "up"; `step_type` as in ResamplingSettings."""
    if step_type == "biggan":
        return plan.block(features, features, rngs, resample=direction)
    if not plan.groups.resampling.with_conv:
        return resample_with(plan.style, direction, rngs=rngs)
    symmetric = plan.groups.resampling.symmetric
    return resample_with(plan.style, direction, features, features, symmetric=symmetric, rngs=rngs)


def input_pyramid(plan: Plan, level: int, rngs: nnx.Rngs) -> InputSkip | InputResidual | None:
    """Return what gives the image to the state below a level, or None."""
    features = plan.widths[level]
    pyramids = plan.groups.pyramids
    if pyramids.input == "input_skip":
        return InputSkip(plan.channels, features, plan.style, pyramids.combine, rngs=rngs)
    if pyramids.input == "residual":
        image_features = plan.channels if level == 0 else plan.widths[level - 1]
        return InputResidual(image_features, features, plan.style, rngs=rngs)
    return None


def output_pyramid(plan: Plan, level: int, rngs: nnx.Rngs) -> OutputSkip | OutputResidual | None:
    """Return what adds a level's part to the image that grows on the way up, or None."""
    features = plan.widths[level]
    first = level == len(plan.widths) - 1
    if plan.groups.pyramids.output == "output_skip":
        # the finest level ends the network, whose normalisation is that of the middle
        style = plan.middle_style if level == 0 else plan.style
        return OutputSkip(features, plan.channels, style, first=first, rngs=rngs)
    if plan.groups.pyramids.output == "residual":
        image_features = 0 if first else plan.widths[level + 1]
        return OutputResidual(image_features, features, plan.style, first=first, rngs=rngs)
    return None
