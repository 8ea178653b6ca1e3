"""From score_sde's configuration, as JSON in its own structure and key names, to one of ours."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ..configs.common import base_config
from ..errors import RunError
from .expect import (
    BLOCKS,
    BOOLEAN,
    CHANNELS,
    COUNT,
    DROPOUT,
    KERNEL,
    MOST,
    MULTIPLIERS,
    POSITIVE,
    SIZE,
    TEXT,
    Expected,
    check,
    real,
    several,
    whole,
)
from .reading import LAST_STEP

ACTIVATION = {"swish": "silu"}
RATE = Expected("a number from 0 to below 1", lambda value: real(0.0).holds(value) and value < 1)
# What is read of each section, and what it may be.
SECTIONS: dict[str, dict[str, Expected]] = {
    "data": {
        "dataset": TEXT, "image_size": SIZE, "num_channels": CHANNELS, "centered": BOOLEAN,
        "random_flip": BOOLEAN,
    },
    "model": {
        "name": TEXT, "nf": CHANNELS, "nonlinearity": TEXT, "num_scales": COUNT, "ema_rate": RATE,
        "sigma_min": POSITIVE, "sigma_max": POSITIVE,
    },
    "optim": {"lr": POSITIVE, "warmup": whole(0, MOST), "grad_clip": real(-MOST)},
    "training": {
        "sde": TEXT, "continuous": BOOLEAN, "likelihood_weighting": BOOLEAN,
        "n_iters": whole(2, LAST_STEP), "batch_size": COUNT,
    },
    "sampling": {
        "method": TEXT, "predictor": TEXT, "corrector": TEXT, "snr": POSITIVE,
        "n_steps_each": COUNT,
    },
}  # fmt: skip
# of the section "model", by the kinds of networks and processes that read it
UNET: dict[str, Expected] = {
    "ch_mult": MULTIPLIERS, "num_res_blocks": BLOCKS, "attn_resolutions": several(SIZE, 64), "dropout": DROPOUT,
    "resamp_with_conv": BOOLEAN, "scale_by_sigma": BOOLEAN, "conditional": BOOLEAN,
}  # fmt: skip
NCSNPP: dict[str, Expected] = {
    "progressive": TEXT, "progressive_input": TEXT, "progressive_combine": TEXT, "resblock_type": TEXT,
    "embedding_type": TEXT, "fir_kernel": KERNEL,
}  # fmt: skip
NCSNPP_FREE: dict[str, Expected] = {
    "fir": BOOLEAN, "skip_rescale": BOOLEAN, "init_scale": real(0.0), "fourier_scale": POSITIVE,
}  # fmt: skip
VP: dict[str, Expected] = {"beta_min": POSITIVE, "beta_max": POSITIVE}

# What sets the published RefineNets apart.
REFINE = {
    "ncsn": {},
    "ncsnv2_64": {},
    "ncsnv2_128": {"ch_mult": (1, 2, 2, 4, 4), "dilations": (1, 1, 1, 2, 4)},
    "ncsnv2_256": {"ch_mult": (1, 2, 2, 2, 4, 4), "dilations": (1, 1, 1, 1, 2, 4)},
}


def network(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` or `NCSN` for the `model` and `data` sections of score_sde.

    Raises:
        RunError: the network is none of score_sde's.
    """
    model = config["model"]
    activation = model["nonlinearity"].lower()
    common = {
        "nf": model["nf"],
        "nonlinearity": ACTIVATION.get(activation, activation),
        "centered": config["data"]["centered"],
    }
    if model["name"] in REFINE:
        return {"name": "NCSN", **common, **_refinenet(model)}
    shared = {
        "name": "UNet",
        **common,
        "ch_mult": tuple(model["ch_mult"]),
        "num_res_blocks": model["num_res_blocks"],
        "attn_resolutions": tuple(model["attn_resolutions"]),
        "dropout": model["dropout"],
        "scale_by_sigma": model["scale_by_sigma"],
    }
    if model["name"] == "ddpm":
        own = _ddpm()
    elif model["name"] == "ncsnpp":
        own = _ncsnpp(model)
    else:
        raise RunError(
            f"model.name is {model['name']!r}; of score_sde's networks "
            f"{', '.join(('ncsnpp', 'ddpm', *REFINE))} can be converted"
        )
    if model["scale_by_sigma"] and own["embedding"] != "fourier":
        own["sigmas"] = _sigmas(model)
    if not model["conditional"]:
        own["embedding"] = "none"
    own["resampling"]["with_conv"] = model["resamp_with_conv"]
    return shared | own


def _refinenet(model: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of our `NCSN` that are those of one RefineNet."""
    only = {"normalization": "InstanceNorm++", "interpolation": "bilinear"}
    if wrong := [f"model.{k} = {model[k]!r}" for k, v in only.items() if model.get(k, v) != v]:
        raise RunError(f"the RefineNets here have {only}, not {', '.join(wrong)}")
    own = {"sigmas": _sigmas(model)}
    if model["name"] == "ncsn":
        own = {"levels": model["num_scales"], "scale_by_sigma": False}
    return {**REFINE[model["name"]], **own}


def _sigmas(model: dict[str, Any]) -> tuple[float, float, int]:
    """Return the largest and the smallest noise level, and their number."""
    return (model["sigma_max"], model["sigma_min"], model["num_scales"])


def _ddpm() -> dict[str, Any]:
    """Return the settings of our `UNet` that every DDPM of score_sde has."""
    return {
        "embedding": "positional",
        "resampling": {"resblock_type": "ddpm"},
        "residual": {"skip_rescale": False},
        "normalisation": {"groups": 32},
    }


def _ncsnpp(model: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` that are those of an NCSN++ of score_sde alone."""
    settings = {
        "embedding": model["embedding_type"].lower(),
        "pyramids": {
            "input": model["progressive_input"].lower(),
            "output": model["progressive"].lower(),
            "combine": model["progressive_combine"].lower(),
        },
        "resampling": {
            "resblock_type": model["resblock_type"].lower(),
            "kernel": tuple(model["fir_kernel"]),
            **_copied(model, "fir"),
        },
        "residual": _copied(model, "skip_rescale", "init_scale"),
        "conditioning": _copied(model, "fourier_scale"),
    }
    return {name: value for name, value in settings.items() if value}


def _copied(model: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the settings of these names that a file gives."""
    return {name: model[name] for name in names if name in model}


def process(config: dict[str, Any]) -> dict[str, Any]:
    """Return our `sde` and `denoiser` sections for a configuration of score_sde.

    They are the process on data in [-1, 1], and what the network predicts from which inputs.

    Raises:
        RunError: the SDE is unknown, or a VP network was trained on data in [0, 1].
    """
    model = config["model"]
    kind = config["training"]["sde"].lower()
    unit = not config["data"]["centered"]
    # Trained on a table of noise levels; the original has none for sub-VP.
    discrete = not config["training"]["continuous"] and kind != "subvpsde"
    if kind == "vesde":
        # on [-1, 1] the noise of [0, 1] is twice as large
        factor = 2 if unit else 1
        sde = {
            "name": "VE",
            "sigma_min": factor * float(model["sigma_min"]),
            "sigma_max": factor * float(model["sigma_max"]),
        }
        denoiser = {"prediction": "score", "inputs": "reversed_label" if discrete else "sigma"}
        if unit:
            denoiser = {key: f"unit_{value}" for key, value in denoiser.items()}
    elif kind not in ("vpsde", "subvpsde"):
        raise RunError(
            f"training.sde is {config['training']['sde']!r}, expected vpsde, subvpsde or vesde"
        )
    elif unit:
        raise RunError(
            "a VP network on data in [0, 1] (data.centered = False) has no counterpart here"
        )
    else:
        name = {"vpsde": "VP", "subvpsde": "SubVP"}[kind]
        sde = {
            "name": name,
            "beta_min": float(model["beta_min"]),
            "beta_max": float(model["beta_max"]),
        }
        denoiser = {"prediction": "noise", "inputs": "label" if discrete else "time"}
    if discrete:
        sde = {"name": "Discrete", "sde": sde, "n": model["num_scales"]}
    return {"sde": sde, "denoiser": denoiser}


def check_score_sde(config: Any) -> None:
    """Raise a RunError if a setting that is read is missing or is none that score_sde can have.

    The message names the setting.
    """
    sections = {name: Expected("a section of settings", _is_section) for name in SECTIONS}
    check(config, {**sections, "seed": whole(0, LAST_STEP)})
    for name, expected in SECTIONS.items():
        check(config[name], expected, f"{name}.")
    model = config["model"]
    if model["name"] not in REFINE:
        check(model, UNET, "model.")
    if model["name"] == "ncsnpp":
        check(model, NCSNPP, "model.")
        check(model, {k: v for k, v in NCSNPP_FREE.items() if k in model}, "model.")
    if config["training"]["sde"].lower() in ("vpsde", "subvpsde"):
        check(model, VP, "model.")


def _is_section(value: Any) -> bool:
    return isinstance(value, dict)


def from_score_sde(config: dict[str, Any]) -> ConfigDict:
    """Return our configuration of a run of score_sde, with its published way of sampling.

    Raises:
        RunError: a setting is missing or wrong, or has no counterpart here.
    """
    check_score_sde(config)
    data = config["data"]
    optim = config["optim"]
    training = config["training"]
    ours = base_config()
    ours.net = network(config)
    sections = process(config)
    ours.sde = sections["sde"]
    ours.denoiser.update({**sections["denoiser"], "sigma_data": 0.5})
    ours.facts = {
        "shape": (data["image_size"], data["image_size"], data["num_channels"]),
        "levels": 256,
        "num_classes": 0,
        "sd": 0.5,
    }
    known = data["dataset"].lower() == "cifar10" and data["image_size"] == 32
    ours.data = {"name": "Files", "path": placeholder(str)}
    if known:
        ours.data = {"name": "TFDS", "dataset": "cifar10"}
    ours.seed = config["seed"]
    ours.ema = config["model"]["ema_rate"]
    ours.optim.update(
        {"lr": optim["lr"], "warmup": optim["warmup"], "clip": max(optim["grad_clip"], 0.0)}
    )
    ours.objective.weighting = "likelihood" if training["likelihood_weighting"] else "noise"
    if sections["sde"]["name"] == "Discrete":
        ours.objective.times = {"name": "Levels"}
    ours.train.update(
        {
            "steps": training["n_iters"] - 1,
            "batch_size": training["batch_size"],
            "flip": data["random_flip"],
            "held_out": "test" if known else "validation",
        }
    )
    ours.samplers.published = published_sampler(config)
    ours.sampling.sampler = "published"
    return ours


PREDICTORS = {
    "euler_maruyama": "EulerMaruyama",
    "reverse_diffusion": "ReverseDiffusion",
    "ancestral_sampling": "Ancestral",
    "none": "",
}
CORRECTORS = {"langevin": "Langevin", "ald": "AnnealedLangevin", "none": ""}


def published_sampler(config: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of `samplers` that walks as score_sde does with its `sampling` section.

    It makes N steps, evenly spaced in time. On a table the last of them is the final denoising. A
    corrector alone visits every level and is not denoised: its last step ends just above time 0,
    where denoising changes nothing, as it is left out there.

    Raises:
        RunError: an unknown predictor or corrector, or neither.
    """
    sampling = config["sampling"]
    ve = config["training"]["sde"].lower() == "vesde"
    if sampling["method"] == "ode":
        return {"name": "probability_flow", "rtol": 1e-5, "atol": 1e-5, "end": 1e-5 if ve else 1e-3}
    for part, known in (("predictor", PREDICTORS), ("corrector", CORRECTORS)):
        if sampling[part] not in known:
            raise RunError(
                f"sampling.{part} is {sampling[part]!r}, expected one of {', '.join(known)}"
            )
    walk: dict[str, Any] = {"name": PREDICTORS[sampling["predictor"]]}
    if walk["name"] == "Ancestral":
        walk["variance"] = "posterior" if ve else "transition"
    corrector: dict[str, Any] = {
        "name": CORRECTORS[sampling["corrector"]],
        "snr": sampling["snr"],
        "n_steps": sampling["n_steps_each"],
    }
    if corrector["name"] == "Langevin":
        corrector["norms"] = "batch"
    n = config["model"]["num_scales"]
    discrete = process(config)["sde"]["name"] == "Discrete"
    steps = n - 1 if discrete else n
    end = 1e-5 if ve else 1e-3
    if discrete:
        end = 1 / n
    if not walk["name"]:
        if not corrector["name"]:
            raise RunError("sampling.predictor and sampling.corrector are both 'none'; name one")
        walk = corrector
        steps = n
        end = 1e-7 if discrete else end
    elif corrector["name"]:
        walk = {"name": "PredictorCorrector", "predictor": walk, "corrector": corrector}
    return {**walk, "grid": "uniform", "steps": steps, "end": end}
