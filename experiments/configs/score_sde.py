r"""The networks of Song et al. 2021 (arXiv:2011.13456) as published: their 39 settings in one file.

    python -m experiments.main --config=experiments/configs/score_sde.py:ve,ncsnpp --workdir=runs/ncsnpp --mode=train
    python -m experiments.convert --from=checkpoint_24.pth --format=score_sde_pytorch \\
        --config=experiments/configs/score_sde.py:ve,ncsnpp --workdir=runs/ncsnpp

A variant is an SDE (ve, vp, subvp), a network (ncsnpp, ddpmpp, ddpm, ncsn, ncsnv2), "deep" for 8
instead of 4 blocks a level, and a data set: cifar10 by default, celeba (64 px), bedroom, church,
celebahq_256, ffhq_256 (256 px), celebahq, ffhq (1024 px). "discrete": trained on a table of 1000
noise levels, as DDPM and SMLD; what was published only so is so without being asked (celeba, ddpm
on 256 px or with ve, ncsn, ncsnv2). "unconditional": DDPM without time. ncsn alone has 10 levels up
to sigma 1; "124", "5" and "1245" add techniques of Song and Ermon 2020 (arXiv:2006.09011): 1, 2, 4
its levels and steps, 5 the moving average. Data in [-1, 1], VE's sigmas doubled, as everywhere
here.

Published, on CIFAR-10 (4 V100 for days; FID over 50,000 samples with `published`, 2,000 evaluations
with a corrector, 1,000 without, 1,160 for ncsnv2; "flow": by the adaptive flow, as are all
bits/dim):

| variant | FID | bits/dim | | variant | FID | bits/dim |
|---|---|---|---|---|---|---|
| ve,ncsnpp | 2.38 | | | subvp,ddpmpp | 2.61 | 3.02 |
| ve,ncsnpp,deep | 2.20 | | | subvp,ddpmpp,deep | 2.41 | 2.99 |
| vp,ddpmpp | 2.55 | 3.16 | | vp,ddpm | 3.69 (flow) | 3.21 |
| vp,ddpmpp,deep | 2.41 | 3.13 | | subvp,ddpm | 3.56 (flow) | 3.05 |
| ve,ncsnpp,discrete | 2.45 | | | vp,ddpm,discrete | 3.24 | 3.28 |
| ve,ncsn | 25.32 | | | vp,ddpmpp,discrete | 2.78 | |
| ve,ncsnv2 | 10.87 | | | | | |

Verified here: the number of parameters of thirteen networks, that all 39 settings have their
process and walk, and equality with the reference on small networks of each family with random
weights (tests/experiments/convert). Not run here: training, and sampling from the published
weights, which cannot be downloaded where this was written.
"""

from ml_collections.config_dict import placeholder

from experiments.configs.common import base_config, choose
from experiments.errors import RunError

# data set -> (pixels, sigma_max of [0, 1], signal-to-noise ratio of the corrector, batch, steps of
# sampling with VE)
DATA = {
    "cifar10": (32, 50.0, 0.16, 128, 1000),
    "celeba": (64, 90.0, 0.17, 128, 1000),
    "bedroom": (256, 378.0, 0.075, 64, 2000),
    "church": (256, 380.0, 0.075, 64, 2000),
    "celebahq_256": (256, 348.0, 0.075, 64, 2000),
    "ffhq_256": (256, 348.0, 0.075, 64, 2000),
    "celebahq": (1024, 1348.0, 0.15, 8, 2000),
    "ffhq": (1024, 1348.0, 0.15, 8, 2000),
}
SDES = ("ve", "vp", "subvp")
NETWORKS = ("ncsnpp", "ddpmpp", "ddpm", "ncsnv2", "ncsn")
OTHERS = ("deep", "discrete", "unconditional", "124", "5", "1245")
# network -> the words of OTHERS that change something about it, or that it was only published with
OF_UNETS = ("deep", "discrete", "unconditional")
UNDERSTOOD = {
    "ncsnpp": OF_UNETS,
    "ddpmpp": OF_UNETS,
    "ddpm": OF_UNETS,
    "ncsnv2": ("discrete",),
    "ncsn": ("discrete", "124", "5", "1245"),
}
# data set -> (pixels, sigma_max of [0, 1], levels, Langevin steps a level, their snr, moving
# average) of NCSNv2
REFINED = {
    "cifar10": (32, 50.0, 232, 5, 0.176, 0.999),
    "celeba": (64, 90.0, 500, 5, 0.128, 0.999),
    "bedroom": (128, 190.0, 1086, 3, 0.095, 0.9999),
}
CIFAR = {"nf": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attn_resolutions": (16,)}
FIR = {
    "resampling": {"fir": True, "kernel": (1, 3, 3, 1)},
    "residual": {"init_scale": 0.0},
}
IMAGES_BESIDE = {"pyramids": {"input": "input_skip", "output": "output_skip"}}
IMAGE_ON_THE_WAY_DOWN = {"pyramids": {"input": "residual"}}


def get_config(variant: str = "ve,ncsnpp"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    words = [word for word in variant.split(",") if word]
    sde, network, data = _chosen(words)
    pixels, sigma_max, snr, batch, _ = DATA[data]
    if network in ("ncsn", "ncsnv2"):
        return _refinenet(network, sde, data, words)
    discrete = _is_discrete(words, sde, network, data)
    config = _shared(data, pixels, batch)
    config.net = {
        "name": "UNet",
        "dropout": 0.1 if pixels <= 64 else 0.0,
        **_network(network, sde, pixels),
    }
    config.optim.lr = 2e-5 if network == "ddpm" and pixels == 256 else 2e-4
    config.ema = 0.999 if sde == "ve" and pixels < 1024 else 0.9999
    config.train.steps = 2_400_000 if pixels >= 256 else 1_300_000
    if "deep" in words:
        config.net.update({"num_res_blocks": 8})
        config.train.steps = 950_000
    if "unconditional" in words:
        config.net.update({"embedding": "none"})
    if sde == "ve":
        _set_ve(config, sigma_max, snr, DATA[data][-1], discrete)
    else:
        _set_vp(config, sde, discrete)
    return config


def _chosen(words: list[str]) -> tuple[str, str, str]:
    """Return SDE, network and data set of a variant; raise a RunError if its words do not fit."""
    if unknown := set(words) - {*SDES, *NETWORKS, *DATA, *OTHERS}:
        raise RunError(
            f"unknown variant {sorted(unknown)[0]!r}; join an SDE of {SDES}, a network of "
            f"{NETWORKS}, a data set of {tuple(DATA)}, and words of {OTHERS}"
        )
    sde = choose(words, SDES, SDES[0])
    network = choose(words, NETWORKS, NETWORKS[0])
    data = choose(words, tuple(DATA), next(iter(DATA)))
    unused = [word for word in OTHERS if word in words and word not in UNDERSTOOD[network]]
    if unused:
        raise RunError(
            f"{unused[0]!r} says nothing about {network}, which understands "
            f"{', '.join(UNDERSTOOD[network])}"
        )
    return sde, network, data


def _is_discrete(words: list[str], sde: str, network: str, data: str) -> bool:
    """Tell whether a network is trained on 1000 noise levels.

    Raises:
        RunError: no such network was published.
    """
    pixels = DATA[data][0]
    large = pixels > 32 and (sde, network) not in (("ve", "ncsnpp"), ("vp", "ddpm"))
    if large or (pixels == 1024 and sde != "ve"):
        raise RunError(f"no {network} with {sde} was published for {data}")
    discrete = "discrete" in words or data == "celeba"
    if network == "ddpm" and (pixels == 256 or sde == "ve"):
        discrete = True
    if discrete and sde == "subvp":
        raise RunError("subvp has no table of noise levels; leave 'discrete' out")
    return discrete


def _set_ve(config, sigma_max: float, snr: float, steps: int, discrete: bool) -> None:
    """Set the process VE, what the network predicts, and the published sampler."""
    config.sde = {"name": "VE", "sigma_min": 0.02, "sigma_max": 2 * sigma_max}
    inputs = "unit_sigma"
    end = 1e-5
    if discrete:
        _set_levels(config)
        config.net.update({"embedding": "positional", "sigmas": (sigma_max, 0.01, 1000)})
        inputs = "unit_reversed_label"
        steps, end = LAST_LEVEL
    config.denoiser.update({"prediction": "unit_score", "inputs": inputs, "sigma_data": 0.5})
    config.samplers.published = {
        "name": "PredictorCorrector",
        "predictor": {"name": "ReverseDiffusion"},
        "corrector": {"name": "Langevin", "snr": snr, "norms": "batch"},
        "grid": "uniform",
        "steps": steps,
        "end": end,
    }


def _set_vp(config, sde: str, discrete: bool) -> None:
    """Set the process VP or sub-VP, what the network predicts, and the published sampler."""
    config.sde = {"name": {"vp": "VP", "subvp": "SubVP"}[sde]}
    walk = {"name": "EulerMaruyama"}
    inputs = "time"
    steps, end = 1000, 1e-3
    if discrete:
        _set_levels(config)
        walk = {"name": "Ancestral", "variance": "transition"}
        inputs = "label"
        steps, end = LAST_LEVEL
    config.denoiser.update({"prediction": "noise", "inputs": inputs, "sigma_data": 0.5})
    config.samplers.published = {**walk, "grid": "uniform", "steps": steps, "end": end}


# Steps and end of a walk over 1000 levels; the thousandth step is the final denoising.
LAST_LEVEL = (999, 1 / 1000)


def _set_levels(config) -> None:
    """Make a process one of 1000 noise levels, and train at those."""
    config.sde = {"name": "Discrete", "sde": config.sde.to_dict(), "n": 1000}
    config.objective.times = {"name": "Levels"}


def _shared(data: str, pixels: int, batch: int):
    """Return what does not depend on network and process."""
    config, cifar = base_config(), data == "cifar10"
    config.facts = {
        "shape": (pixels, pixels, 3),
        "levels": 256,
        "num_classes": 10 if cifar else 0,
        "sd": 0.5,
    }
    config.data = {"name": "TFDS", "dataset": "cifar10"} if cifar else _files(pixels)
    config.train.update(
        {"batch_size": batch, "flip": True, "held_out": "test" if cifar else "validation"}
    )
    config.train.update(
        {
            "log_every": 500,
            "held_out_every": 10_000,
            "checkpoint_every": 10_000,
            "keep_period": 50_000,
        }
    )
    config.objective.weighting = "noise"
    size = 64 if pixels < 1024 else 8
    config.sampling.update({"sampler": "published", "batch_size": size, "block": size})
    config.eval.update(
        {"split": "test" if cifar else "validation", "number": 50_000, "samplers": ("published",)}
    )
    return config


def _refinenet(network: str, sde: str, data: str, words: list[str]):
    """Return the configuration of NCSN or NCSNv2, which annealed Langevin dynamics alone samples,
    level by level.
    """
    if sde != "ve" or data not in REFINED or network == "ncsn" and data == "bedroom":
        raise RunError(f"no {network} with {sde} was published for {data}")
    pixels, sigma_max, levels, inner, snr, average = REFINED[data]
    config = _shared(data, pixels, 128)
    if network == "ncsn":
        if not {"124", "1245"} & {*words}:
            sigma_max, levels, inner, snr = 1.0, 10, 100, 0.316
        average = average if {"5", "1245"} & {*words} else 0.0
        own = {"levels": levels, "scale_by_sigma": False}
    else:
        own = {"sigmas": (sigma_max, 0.01, levels)}
        own |= {"ch_mult": (1, 2, 2, 4, 4), "dilations": (1, 1, 1, 2, 4)} if pixels > 96 else {}
    config.net = {"name": "NCSN", "nf": 128, "centered": False, **own}
    config.sde = {
        "name": "Discrete",
        "sde": {"name": "VE", "sigma_min": 0.02, "sigma_max": 2 * sigma_max},
        "n": levels,
    }
    config.denoiser.update(
        {"prediction": "unit_score", "inputs": "unit_reversed_label", "sigma_data": 0.5}
    )
    config.objective.times = {"name": "Levels"}
    config.optim.update({"lr": 1e-3 if network == "ncsn" else 1e-4, "warmup": 0, "clip": 0.0})
    config.ema, config.train.steps = average, 2_400_000 if data == "bedroom" else 1_300_000
    # to just above 0, where the final denoising does nothing
    config.samplers.published = {
        "name": "AnnealedLangevin",
        "snr": snr,
        "n_steps": inner,
        "grid": "uniform",
        "steps": levels,
        "end": 1e-7,
    }
    return config


def _network(network: str, sde: str, pixels: int) -> dict:
    """Return the settings of a network; one for VE has Fourier features of sigma and divides by it."""
    of_process: dict = {"embedding": "positional"}
    if sde == "ve":
        of_process = {"scale_by_sigma": True, "centered": False}
        if network == "ddpm":
            of_process["embedding"] = "positional"
        else:
            of_process["embedding"] = "fourier"
            of_process["conditioning"] = {"fourier_scale": 16.0}
    if network == "ddpm":
        own = {
            "num_res_blocks": 2,
            "ch_mult": (1, 1, 2, 2, 4, 4) if pixels == 256 else (1, 2, 2, 2),
            "resampling": {"resblock_type": "ddpm"},
            "residual": {"skip_rescale": False},
            "normalisation": {"groups": 32},
        }
        return CIFAR | own | of_process
    if network == "ddpmpp":
        return CIFAR | of_process
    if pixels == 1024:
        own = {
            "nf": 16,
            "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
            "num_res_blocks": 1,
            "attn_resolutions": (16,),
        }
        return own | FIR | IMAGES_BESIDE | of_process
    if pixels == 256:
        own = {
            "nf": 128,
            "ch_mult": (1, 1, 2, 2, 2, 2, 2),
            "num_res_blocks": 2,
            "attn_resolutions": (16,),
        }
        return own | FIR | IMAGES_BESIDE | of_process
    return CIFAR | FIR | IMAGE_ON_THE_WAY_DOWN | of_process


def _files(pixels: int) -> dict:
    return {"name": "Files", "path": placeholder(str), "image_size": pixels}
