"""The formats that checkpoints come in: each reads a file and says what is in it, in our terms."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from flax.serialization import msgpack_restore
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

import models

from ..build import make
from ..configs.common import base_config
from ..errors import RunError
from . import diffusers as unet2d
from . import rules
from .edm import edm_rules, read_edm, with_labels
from .export import idle_attention
from .ncsn import ncsn_rules
from .safetensors import read_safetensors
from .score_sde import idle, jax_rules, pytorch_rules
from .settings import from_score_sde
from .torch_file import read_torch

UNTRAINED = "all_modules.0.W"  # the random frequencies of a Fourier embedding: never trained


class Converted(NamedTuple):
    """A checkpoint in our terms."""

    config: ConfigDict
    params: Any  # nested dicts of float32 arrays
    ema: Any  # the averaged weights, to sample with
    step: int  # training steps that it has seen


def load_config(spec: str) -> ConfigDict:
    """Return the configuration of a file of ours (FILE.py or FILE.py:variant) or of score_sde's, as JSON.

    Raises:
        RunError: there is no such file.
    """
    path, _, variant = spec.partition(":")
    if not Path(path).exists():
        raise RunError(
            f"there is no configuration file {path}; name one of ours, such as experiments/configs/score_sde.py:VARIANT"
        )
    if path.endswith(".json"):
        return from_score_sde(json.loads(Path(path).read_text()))
    found: dict[str, Any] = {"__name__": "config"}
    exec(compile(Path(path).read_text(), path, "exec"), found)  # our own file, named by the user
    return found["get_config"](*([variant] if variant else []))


def abstract_network(config: ConfigDict) -> nnx.Module:
    """Return the network of a configuration without numbers."""
    if not config.facts:
        raise RunError(
            "the configuration declares no facts about its data, of which the network's shape is one; give it config.facts.shape"
        )
    classes = config.facts.num_classes if config.train.conditional else 0
    extra = {"shape": tuple(config.facts.shape), "num_classes": classes}
    return nnx.eval_shape(lambda: make(models, config.net, nnx.Module, **extra, rngs=nnx.Rngs(0)))


def template_of(net: nnx.Module) -> Any:
    """Return the shapes of a network's parameters, as nested dicts."""
    return models.split(net).params


def score_sde_pytorch(path: Path, spec: str | None) -> Converted:
    """Read a checkpoint of score_sde_pytorch (`.pth`), or an `.npz` that holds a state dict."""
    config = load_config(_given(spec))
    if path.suffix == ".npz":
        with np.load(path) as file:
            ema = {k.removeprefix("param/"): file[k] for k in file.files if k.startswith("param/")}
        model, step = ema, 0
    else:
        model, ema, step = _pytorch_state(read_torch(path))
    if config.net.get("embedding") == "none" and np.ndim(model.get("all_modules.0.weight", 0)) == 2:
        config.net.embedding = (
            "positional"  # its DDPM is told the time whatever model.conditional says
        )
    net = abstract_network(config)
    if isinstance(net, models.NCSN):
        names, ignored = ncsn_rules(net), ["sigmas"]
    else:
        unread = idle(_unet(net), model)
        names, ignored = (
            pytorch_rules(_unet(net), first=int(UNTRAINED in unread)),
            ["sigmas", *unread],
        )
    read = lambda weights: rules.read(names, weights, template_of(net), ignored)  # noqa: E731
    return Converted(config, read(model), read(ema), step)


def score_sde(path: Path, spec: str | None) -> Converted:
    """Read a checkpoint of the JAX original: what flax's msgpack wrote of its training state."""
    config = load_config(_given(spec))
    net = abstract_network(config)
    try:
        state: Any = msgpack_restore(path.read_bytes())
        raw, ema, step = state["optimizer"]["target"], state["params_ema"], int(state["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is no training state of score_sde: {error!r}") from error
    ema, raw, template = _joined(ema), _joined(raw), template_of(net)
    names, unread = jax_rules(_unet(net), ema), idle(_unet(net), ema)
    return Converted(
        config,
        rules.read(names, raw, template, unread),
        rules.read(names, ema, template, unread),
        step,
    )


def diffusers(path: Path, spec: str | None) -> Converted:
    """Read a `UNet2DModel` that diffusers saved (`.safetensors`), its config.json and, if it is there, scheduler_config.json beside it."""
    own = Path(spec) if spec else path.with_suffix(".config.json")
    settings = _json(own if own.exists() else path.parent / "config.json")
    near = (
        path.parent / "scheduler_config.json",
        path.parent.parent / "scheduler" / "scheduler_config.json",
    )
    scheduler = next((_json(file) for file in near if file.exists()), {})
    net, found, config = (
        unet2d.network(settings),
        unet2d.process(settings, scheduler),
        base_config(),
    )
    shape, classes = net.pop("shape"), net.pop("num_classes")
    config.net, config.sde, config.train.conditional = net, found["sde"], classes > 0
    config.denoiser.update({**found["denoiser"], "sigma_data": 0.5})
    config.facts = {"shape": shape, "levels": 256, "num_classes": classes, "sd": 0.5}
    config.data = {"name": "Files", "path": placeholder(str)}
    weights = unet2d.modern(read_safetensors(path))
    if absent := idle_attention(weights, net):
        config.net = {**net, "attn_up": "last"}
    abstract = _unet(abstract_network(config))
    names = unet2d.diffusers_rules(
        abstract, settings.get("flip_sin_to_cos", True), settings.get("_no_label") is not None
    )
    params = rules.read(names, weights, template_of(abstract), absent)
    return Converted(config, params, params, 0)


def edm(path: Path, spec: str | None) -> Converted:
    """Read a network snapshot of EDM (`.pkl`); it says itself what network it holds, so `spec` is not needed."""
    del spec
    net, weights = read_edm(path)
    config = base_config()
    shape, classes, sd = net.pop("shape"), net.pop("num_classes"), net.pop("sigma_data")
    config.net, config.train.conditional = net, classes > 0
    config.sde = {"name": "EDM", "sigma_max": 80.0}
    config.denoiser.update({"prediction": "edm", "inputs": "edm", "sigma_data": sd})
    config.facts = {"shape": shape, "levels": 256, "num_classes": classes, "sd": sd}
    config.data = {"name": "Files", "path": placeholder(str)}
    # 18 levels, and the last denoising is their Euler step to 0: 35 evaluations
    config.samplers.published = {"name": "Heun", "grid": "karras", "steps": 17, "end": 0.002 / 80}
    config.sampling.sampler = "published"
    abstract = _unet(abstract_network(config))
    params = rules.read(edm_rules(abstract), with_labels(weights, abstract), template_of(abstract))
    return Converted(config, params, params, 0)


FORMATS: dict[str, Callable[[Path, str | None], Converted]] = {
    "score_sde_pytorch": score_sde_pytorch,
    "score_sde": score_sde,
    "diffusers": diffusers,
    "edm": edm,
}


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise RunError(f"there is no {path}; name the network's config.json with --config")
    return json.loads(path.read_text())


def _given(spec: str | None) -> str:
    if not spec:
        raise RunError(
            "name the network's configuration with --config: one of ours, or score_sde's as JSON"
        )
    return spec


def _unet(net: nnx.Module) -> models.UNet:
    if not isinstance(net, models.UNet):
        raise RunError(
            f"this format holds U-Nets, but the configuration names {type(net).__name__}; give config.net.name = 'UNet'"
        )
    return net


def _pytorch_state(state: Any) -> tuple[Mapping, Mapping, int]:
    """Return the weights, their moving average and the step of a training state.

    The average is a list without names, in the order of the state dict, of what is trained: neither buffers nor Fourier frequencies.
    """
    try:
        if isinstance(
            state, list
        ):  # the code of NCSNv2: model, optimizer, epoch, step and perhaps the average, by name
            model, ema = (
                {k.removeprefix("module."): v for k, v in state[i].items()}
                for i in (0, 4 if len(state) > 4 else 0)
            )
            return model, {**model, **ema}, int(state[3])
        model = {k.removeprefix("module."): v for k, v in state["model"].items()}
        shadow, step = state["ema"]["shadow_params"], int(state["step"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"this is no training state of score_sde_pytorch: {error!r}") from error
    trained = [k for k in model if k != "sigmas" and not (k == UNTRAINED and model[k].ndim == 1)]
    if [model[k].shape for k in trained] != [s.shape for s in shadow]:
        raise RunError(
            f"the moving average has {len(shadow)} arrays, the network {len(trained)} that are trained; they do not match"
        )
    return model, {**model, **dict(zip(trained, shadow, strict=True))}, step


def _joined(tree: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    """Return nested dicts as one, names joined by dots."""
    joined = {}
    for name, value in tree.items():
        joined |= (
            _joined(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return joined
