"""The networks that are measured, with the settings of their papers at 32 x 32 x 3."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ...configs.common import base_config
from ...configs.score_sde import CIFAR, FIR, IMAGE_ON_THE_WAY_DOWN
from ...run.build import DataFacts, Run, build

SHAPE = (32, 32, 3)
FOURIER = {"embedding": "fourier", "scale_by_sigma": True}
DIT = {"name": "DiT", "patch": 2, "width": 768, "depth": 12, "heads": 12}
NETWORKS: dict[str, dict[str, Any]] = {
    "DDPM++": {"name": "UNet", **CIFAR, "embedding": "positional", "dropout": 0.1},
    "NCSN++": {
        "name": "UNet",
        **CIFAR,
        **FIR,
        **FOURIER,
        **IMAGE_ON_THE_WAY_DOWN,
        "dropout": 0.1,
    },
    "DiT-B/2": DIT,
    "DiT-B/2-fused": {**DIT, "attention": "cudnn"},
}
TINY_DIT = {"width": 32, "depth": 2, "heads": 2}
TINY: dict[str, dict[str, Any]] = {
    "DDPM++": {"nf": 16, "ch_mult": (1, 2), "num_res_blocks": 1},
    "NCSN++": {"nf": 16, "ch_mult": (1, 2), "num_res_blocks": 1},
    "DiT-B/2": TINY_DIT,
    "DiT-B/2-fused": TINY_DIT,
}
BFLOAT16_ONLY = ("DiT-B/2-fused",)


class Mode(NamedTuple):
    """How a network computes."""

    dtype: str  # of its convolutions and products
    precision: str | None  # of jax_default_matmul_precision: how float32 factors are rounded


MODES = {
    "float32": Mode("float32", "highest"),
    "tf32": Mode("float32", "tensorfloat32"),
    "default": Mode("float32", None),  # what a user gets who sets nothing
    "bfloat16": Mode("bfloat16", None),
}


def make_run(network: str, mode: str, *, tiny: bool = False, **settings: Any) -> Run:
    """Return the run whose network is measured, without parameters.

    The mode's precision holds for the whole process from here on.
    """
    jax.config.update("jax_default_matmul_precision", MODES[mode].precision)
    config = base_config()
    size = TINY[network] if tiny else {}
    config.net = {**NETWORKS[network], **size, **settings, "dtype": MODES[mode].dtype}
    config.denoiser.update({"prediction": "noise", "inputs": "time"})
    shape = (16, 16, 3) if tiny else SHAPE
    return build(config, DataFacts(shape, 256, 0, 0.5), abstract=True)


def numbers_for(params: Any, seed: int = 0) -> Any:
    """Return parameters such as training leaves behind, the same on every machine."""
    rng = np.random.default_rng(seed)

    def draw(path, p):
        normal = rng.standard_normal(p.shape)
        if p.ndim > 1:
            return np.asarray(normal / np.sqrt(np.prod(p.shape[:-1])), np.float32)
        scale = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return np.asarray(scale + 0.1 * normal, np.float32)

    return jax.tree_util.tree_map_with_path(draw, params)


def with_numbers(run: Run) -> Run:
    """Return the run with parameters on the device.

    To draw them there would take a program of its own.
    """
    params = jax.device_put(numbers_for(run.split.params))
    return run._replace(split=run.split._replace(params=params))
