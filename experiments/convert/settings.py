"""From score_sde's configuration, as JSON in its own structure and key names, to one of ours."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ..configs.common import base_config
from ..errors import RunError

ACTIVATION = {"swish": "silu"}


def network(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of our `UNet` for the `model` and `data` sections of score_sde.

    Raises:
        RunError: the network is none of score_sde's U-Nets.
    """
    model, data = config["model"], config["data"]
    shared = {
        "name": "UNet",
        "nf": model["nf"],
        "ch_mult": tuple(model["ch_mult"]),
        "num_res_blocks": model["num_res_blocks"],
        "attn_resolutions": tuple(model["attn_resolutions"]),
        "dropout": model["dropout"],
        "nonlinearity": ACTIVATION.get(model["nonlinearity"].lower(), model["nonlinearity"].lower()),
        "resamp_with_conv": model["resamp_with_conv"],
        "scale_by_sigma": model["scale_by_sigma"],
        "centered": data["centered"],
    }
    if model["name"] == "ddpm":
        own = {"embedding": "positional", "resblock_type": "ddpm", "skip_rescale": False, "groups": 32}
    elif model["name"] == "ncsnpp":
        copied = ("progressive", "progressive_input", "progressive_combine", "resblock_type")
        own = {name: model[name].lower() for name in copied}
        own |= {name: model[name] for name in ("fir", "skip_rescale", "init_scale", "fourier_scale")}
        own |= {"embedding": model["embedding_type"].lower(), "fir_kernel": tuple(model["fir_kernel"])}
    else:
        raise RunError(f"model.name is {model['name']!r}; of score_sde's networks ncsnpp and ddpm can be converted")
    if not model["conditional"]:
        own["embedding"] = "none"
    if model["scale_by_sigma"] and own["embedding"] != "fourier":
        own["sigmas"] = (model["sigma_max"], model["sigma_min"], model["num_scales"])
    return shared | own


def process(config: dict[str, Any]) -> dict[str, Any]:
    """Return our `sde` and `denoiser` sections: the process on data in [-1, 1], and what the network is told and predicts.

    Raises:
        RunError: the SDE is unknown, or the network was trained on discrete steps.
    """
    model, kind = config["model"], config["training"]["sde"].lower()
    unit = not config["data"]["centered"]
    if not config["training"]["continuous"]:
        raise RunError("this network was trained on discrete steps (training.continuous = False); only continuous ones can be converted")
    if kind == "vesde":
        # on [-1, 1] the noise of [0, 1] is twice as large
        factor = 2 if unit else 1
        sde = {"name": "VE", "sigma_min": factor * float(model["sigma_min"]), "sigma_max": factor * float(model["sigma_max"])}
        return {
            "sde": sde,
            "denoiser": {"prediction": "unit_score", "inputs": "unit_sigma"} if unit else {"prediction": "score", "inputs": "sigma"},
        }
    if kind not in ("vpsde", "subvpsde"):
        raise RunError(f"training.sde is {config['training']['sde']!r}, expected vpsde, subvpsde or vesde")
    if unit:
        raise RunError("a VP network on data in [0, 1] (data.centered = False) has no counterpart here")
    name = {"vpsde": "VP", "subvpsde": "SubVP"}[kind]
    sde = {"name": name, "beta_min": float(model["beta_min"]), "beta_max": float(model["beta_max"])}
    return {"sde": sde, "denoiser": {"prediction": "noise", "inputs": "time"}}


def from_score_sde(config: dict[str, Any]) -> ConfigDict:
    """Return our configuration of a run of score_sde, with its published way of sampling."""
    ours, data, model, optim = base_config(), config["data"], config["model"], config["optim"]
    ours.net = network(config)
    found = process(config)
    ours.sde = found["sde"]
    ours.denoiser.update({**found["denoiser"], "sigma_data": 0.5})
    ours.facts = {"shape": (data["image_size"], data["image_size"], data["num_channels"]), "levels": 256, "num_classes": 0, "sd": 0.5}
    known = data["dataset"].lower() == "cifar10" and data["image_size"] == 32
    ours.data = {"name": "TFDS", "dataset": "cifar10"} if known else {"name": "Files", "path": placeholder(str)}
    ours.seed, ours.ema = config["seed"], model["ema_rate"]
    ours.optim.update({"lr": optim["lr"], "warmup": optim["warmup"], "clip": max(optim["grad_clip"], 0.0)})
    ours.objective.weighting = "likelihood" if config["training"]["likelihood_weighting"] else "noise"
    ours.train.update({"steps": config["training"]["n_iters"] - 1, "batch_size": config["training"]["batch_size"]})
    ours.train.update({"flip": data["random_flip"], "held_out": "test" if known else "validation"})
    ours.samplers.published = published_sampler(config)
    ours.sampling.sampler = "published"
    return ours


PREDICTORS = {"euler_maruyama": "EulerMaruyama", "reverse_diffusion": "ReverseDiffusion", "ancestral_sampling": "Ancestral"}
CORRECTORS = {"langevin": "Langevin", "ald": "AnnealedLangevin"}


def published_sampler(config: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of `samplers` that walks as score_sde does with its `sampling` section: N steps, evenly spaced in time."""
    sampling, ve = config["sampling"], config["training"]["sde"].lower() == "vesde"
    if sampling["method"] == "ode":
        return {"name": "probability_flow", "rtol": 1e-5, "atol": 1e-5, "end": 1e-5 if ve else 1e-3}
    if sampling["predictor"] not in PREDICTORS:
        raise RunError(f"sampling.predictor is {sampling['predictor']!r}, expected one of {', '.join(PREDICTORS)}")
    walk: dict[str, Any] = {"name": PREDICTORS[sampling["predictor"]]}
    if sampling["corrector"] != "none":
        settings = {"snr": sampling["snr"], "n_steps": sampling["n_steps_each"]}
        if sampling["corrector"] == "langevin":
            settings["norms"] = "batch"
        corrector = {"name": CORRECTORS[sampling["corrector"]], **settings}
        walk = {"name": "PredictorCorrector", "predictor": walk, "corrector": corrector}
    return {**walk, "grid": "uniform", "steps": config["model"]["num_scales"], "end": 1e-5 if ve else 1e-3}
