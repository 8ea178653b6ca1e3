"""The formats that checkpoints come in: each reads a file and says what is in it, in our terms."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

import models

from ..configs.common import base_config
from ..errors import RunError
from ..run.build import make
from . import diffusers as unet2d
from . import diffusers_weights, rules
from .edm import edm_rules, read_edm, with_labels
from .export import idle_attention
from .ncsn import ncsn_rules
from .reading import checked_weights, read_json, reading
from .safetensors import read_safetensors
from .score_sde import fitting_rules, idle, jax_rules
from .settings import from_score_sde
from .states import UNTRAINED, jax_state, pytorch_state, state_dict
from .torch_file import read_torch


class Converted(NamedTuple):
    """A checkpoint in our terms."""

    config: ConfigDict
    params: Any  # nested dicts of float32 arrays
    ema: Any  # the averaged weights, to sample with
    step: int  # training steps that it has seen


def load_config(spec: str) -> ConfigDict:
    """Return a configuration: that of a file of ours, or score_sde's as JSON.

    `spec` is FILE.json, FILE.py or FILE.py:variant.

    Raises:
        RunError: there is no such file.
    """
    path, _, variant = spec.partition(":")
    if not Path(path).exists():
        raise RunError(
            f"there is no configuration file {path}; name one of ours, such as "
            "experiments/configs/score_sde.py:VARIANT"
        )
    with reading(path, "configuration"):
        if path.endswith(".json"):
            return from_score_sde(read_json(Path(path)))
        module: dict[str, Any] = {"__name__": "config"}
        code = compile(Path(path).read_text(), path, "exec")
        exec(code, module)  # our own file, named by the user
        return module["get_config"](*([variant] if variant else []))


def abstract_network(config: ConfigDict) -> nnx.Module:
    """Return the network of a configuration, its parameters without numbers."""
    if not config.facts:
        raise RunError(
            "the configuration declares no facts about its data, of which the network's shape is "
            "one; give it config.facts.shape"
        )
    classes = config.facts.num_classes if config.train.conditional else 0
    extra = {"shape": tuple(config.facts.shape), "num_classes": classes}
    return nnx.eval_shape(
        lambda: make(models, config.net, nnx.Module, **extra, rngs=models.rngs_of(0))
    )


def fitting_network(
    config: ConfigDict, weights: Mapping[str, np.ndarray], source: Any
) -> nnx.Module:
    """Return the network of a configuration without numbers, if it can be that of these weights.

    `source` is its file.

    Raises:
        RunError: it has more blocks than there are weights; making it could take hours.
    """
    blocks = config.net.get("num_res_blocks", 0) * len(config.net.get("ch_mult", ()))
    if blocks > len(weights):
        raise RunError(
            f"{source} asks for {config.net.num_res_blocks} blocks at each of "
            f"{len(config.net.ch_mult)} levels, but there are only {len(weights)} arrays"
        )
    with reading(source, "configuration of a network that can be made"):
        return abstract_network(config)


def drop(weights: Mapping[str, np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
    """Return the weights without those of these names."""
    return {name: array for name, array in weights.items() if name not in names}


def template_of(net: nnx.Module) -> Any:
    """Return the shapes of a network's parameters, as nested dicts."""
    return models.split(net).params


def score_sde_pytorch(path: Path, spec: str | None) -> Converted:
    """Read a checkpoint of score_sde_pytorch (`.pth`), or an `.npz` that holds a state dict."""
    config = load_config(_given(spec))
    model, ema, step = state_dict(path) if path.suffix == ".npz" else pytorch_state(path)
    if config.net.get("embedding") == "none" and np.ndim(model.get("all_modules.0.weight", 0)) == 2:
        # Its DDPM has time as an input whatever model.conditional says.
        config.net.embedding = "positional"
    with reading(path, "checkpoint of this network"):
        net = fitting_network(config, model, spec)
        ignored = ["sigmas"]
        if isinstance(net, models.NCSN):
            names = ncsn_rules(net)
        else:
            unread = idle(_unet(net), model)
            ignored += unread
            names = fitting_rules(_unet(net), drop(model, ignored), first=int(UNTRAINED in unread))
        template = template_of(net)
        return Converted(
            config=config,
            params=rules.read(names, model, template, ignored),
            ema=rules.read(names, ema, template, ignored),
            step=step,
        )


def score_sde(path: Path, spec: str | None) -> Converted:
    """Read a checkpoint of the JAX original: what flax's msgpack wrote of its training state."""
    config = load_config(_given(spec))
    raw, ema, step = jax_state(path)
    with reading(path, "checkpoint of this network"):
        net = _unet(fitting_network(config, ema, spec))
        names = jax_rules(net, ema)
        unread = idle(net, ema)
        template = template_of(net)
        return Converted(
            config=config,
            params=rules.read(names, raw, template, unread),
            ema=rules.read(names, ema, template, unread),
            step=step,
        )


def diffusers(path: Path, spec: str | None) -> Converted:
    """Read a `UNet2DModel` that diffusers saved (`.safetensors`, or the older `.bin`).

    Its config.json stands beside it, and scheduler_config.json too, if there is one.
    """
    own = Path(spec) if spec else path.with_suffix(".config.json")
    if not own.exists():
        own = path.parent / "config.json"
    if not own.exists():
        raise RunError(f"there is no {own}; name the network's config.json with --config")
    settings = read_json(own)
    near = (
        path.parent / "scheduler_config.json",
        path.parent.parent / "scheduler" / "scheduler_config.json",
    )
    scheduler = next((file for file in near if file.exists()), None)
    with reading(own, "configuration of a UNet2DModel"):
        net = unet2d.network(settings)
    with reading(scheduler or own, "configuration of a scheduler"):
        process = unet2d.process(settings, read_json(scheduler) if scheduler else {})
    config = base_config()
    shape = net.pop("shape")
    classes = net.pop("num_classes")
    config.net = net
    config.sde = process["sde"]
    config.train.conditional = classes > 0
    config.denoiser.update({**process["denoiser"], "sigma_data": 0.5})
    config.facts = {"shape": shape, "levels": 256, "num_classes": classes, "sd": 0.5}
    config.data = {"name": "Files", "path": placeholder(str)}
    read = read_torch if path.suffix in (".bin", ".pt", ".pth") else read_safetensors
    with reading(path, "file of weights"):
        weights = diffusers_weights.modern(checked_weights(read(path), "the file"))
        if absent := idle_attention(weights, net):
            config.net = {**net, "attention": {**net["attention"], "up": "last"}}
        abstract = _unet(fitting_network(config, weights, own))
        flip = settings.get("flip_sin_to_cos", True)
        names = diffusers_weights.diffusers_rules(
            abstract, flip, settings.get("_no_label") is not None
        )
        params = rules.read(names, weights, template_of(abstract), absent)
        return Converted(config=config, params=params, ema=params, step=0)


def edm(path: Path, spec: str | None) -> Converted:
    """Read a network snapshot of EDM (`.pkl`).

    The file says itself what network it holds, so `spec` is not needed.
    """
    del spec
    net, weights = read_edm(path)
    config = base_config()
    shape = net.pop("shape")
    classes = net.pop("num_classes")
    sd = net.pop("sigma_data")
    config.net = net
    config.train.conditional = classes > 0
    config.sde = {"name": "EDM", "sigma_max": 80.0}
    config.denoiser.update({"prediction": "edm", "inputs": "edm", "sigma_data": sd})
    config.facts = {"shape": shape, "levels": 256, "num_classes": classes, "sd": sd}
    config.data = {"name": "Files", "path": placeholder(str)}
    # 18 levels, and the last denoising is their Euler step to 0: 35 evaluations
    config.samplers.published = {"name": "Heun", "grid": "karras", "steps": 17, "end": 0.002 / 80}
    config.sampling.sampler = "published"
    with reading(path, "network snapshot of EDM"):
        abstract = _unet(fitting_network(config, weights, path))
        labelled = with_labels(weights, abstract)
        params = rules.read(edm_rules(abstract), labelled, template_of(abstract))
        return Converted(config=config, params=params, ema=params, step=0)


FORMATS: dict[str, Callable[[Path, str | None], Converted]] = {
    "score_sde_pytorch": score_sde_pytorch,
    "score_sde": score_sde,
    "diffusers": diffusers,
    "edm": edm,
}


def _given(spec: str | None) -> str:
    """Return the name of a configuration; raise a RunError if none is given."""
    if not spec:
        raise RunError(
            "name the network's configuration with --config: one of ours, or score_sde's as JSON"
        )
    return spec


def _unet(net: nnx.Module) -> models.UNet:
    """Return a network that is a `UNet`; raise a RunError if it is none."""
    if not isinstance(net, models.UNet):
        raise RunError(
            f"this format holds U-Nets, but the configuration names {type(net).__name__}; give "
            "config.net.name = 'UNet'"
        )
    return net
