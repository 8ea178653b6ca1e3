r"""The networks of Song et al. 2021 (arXiv:2011.13456) as published: one file for the settings that were 39.

    python -m experiments.main --config=experiments/configs/score_sde.py:ve,ncsnpp --workdir=runs/ncsnpp --mode=train
    python -m experiments.convert --from=checkpoint_24.pth --format=score_sde_pytorch \\
        --config=experiments/configs/score_sde.py:ve,ncsnpp --workdir=runs/ncsnpp

A variant is an SDE (ve, vp, subvp), a network (ncsnpp, ddpmpp, ddpm, ncsn, ncsnv2), "deep" for 8 instead of 4 blocks a level, and a data
set: cifar10 by default, celeba (64 px), bedroom, church, celebahq_256, ffhq_256 (256 px), celebahq, ffhq (1024 px). "discrete": trained on
a table of 1000 noise levels, as DDPM and SMLD; what was published only so is so without being asked (celeba, ddpm on 256 px or with ve,
ncsn, ncsnv2). "unconditional": DDPM without time. ncsn alone has 10 levels up to sigma 1; "124", "5" and "1245" add techniques of Song and
Ermon 2020 (arXiv:2006.09011): 1, 2, 4 its levels and steps, 5 the moving average. Data in [-1, 1], VE's sigmas doubled, as everywhere here.

Published, on CIFAR-10 (4 V100 for days; FID over 50,000 samples with `published`, 2,000 evaluations with a corrector, 1,000 without, 1,160
for ncsnv2; "flow": by the adaptive flow, as are all bits/dim):

| variant | FID | bits/dim | | variant | FID | bits/dim |
|---|---|---|---|---|---|---|
| ve,ncsnpp | 2.38 | | | subvp,ddpmpp | 2.61 | 3.02 |
| ve,ncsnpp,deep | 2.20 | | | subvp,ddpmpp,deep | 2.41 | 2.99 |
| vp,ddpmpp | 2.55 | 3.16 | | vp,ddpm | 3.69 (flow) | 3.21 |
| vp,ddpmpp,deep | 2.41 | 3.13 | | subvp,ddpm | 3.56 (flow) | 3.05 |
| ve,ncsnpp,discrete | 2.45 | | | vp,ddpm,discrete | 3.24 | 3.28 |
| ve,ncsn | 25.32 | | | vp,ddpmpp,discrete | 2.78 | |
| ve,ncsnv2 | 10.87 | | | | | |

Verified here: the number of parameters of thirteen networks, that all 39 settings have their process and walk, and equality with the
reference on small networks of each family with random weights (tests/experiments/convert). Not run here: training, and sampling from the
published weights, which cannot be downloaded where this was written.
"""

from ml_collections.config_dict import placeholder

from experiments.configs.common import base_config, choose
from experiments.errors import RunError

# data set -> (pixels, sigma_max of [0, 1], signal-to-noise ratio of the corrector, batch, steps of sampling with VE)
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
# data set -> (pixels, sigma_max of [0, 1], levels, Langevin steps a level, their snr, moving average) of NCSNv2
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
    words = [word for word in variant.split(",") if word]
    if unknown := set(words) - {*SDES, *NETWORKS, *DATA, *OTHERS}:
        known = f"join an SDE of {SDES}, a network of {NETWORKS}, a data set of {tuple(DATA)}, and words of {OTHERS}"
        raise RunError(f"unknown variant {sorted(unknown)[0]!r}; {known}")
    sde, network, data = (
        choose(words, choices, choices[0]) for choices in (SDES, NETWORKS, tuple(DATA))
    )
    unused = [word for word in OTHERS if word in words and word not in UNDERSTOOD[network]]
    if unused:
        raise RunError(
            f"{unused[0]!r} says nothing about {network}, which understands {', '.join(UNDERSTOOD[network])}"
        )
    pixels, sigma_max, snr, batch, steps = DATA[data]
    if network in ("ncsn", "ncsnv2"):
        return _refinenet(network, sde, data, words)
    if (
        pixels > 32
        and (sde, network) not in (("ve", "ncsnpp"), ("vp", "ddpm"))
        or pixels == 1024
        and sde != "ve"
    ):
        raise RunError(f"no {network} with {sde} was published for {data}")
    discrete = (
        "discrete" in words
        or data == "celeba"
        or network == "ddpm"
        and (pixels == 256 or sde == "ve")
    )
    if discrete and sde == "subvp":
        raise RunError("subvp has no table of noise levels; leave 'discrete' out")
    config = _shared(data, pixels, batch)
    deep = {"num_res_blocks": 8} if "deep" in words else {}
    timeless = {"embedding": "none"} if "unconditional" in words else {}
    config.net = {
        "name": "UNet",
        "dropout": 0.1 if pixels <= 64 else 0.0,
        **_network(network, sde, pixels),
        **deep,
        **timeless,
    }
    config.optim.lr = 2e-5 if network == "ddpm" and pixels == 256 else 2e-4
    config.ema = 0.999 if sde == "ve" and pixels < 1024 else 0.9999
    config.train.steps = 950_000 if "deep" in words else 2_400_000 if pixels >= 256 else 1_300_000
    walk: dict = {"name": "EulerMaruyama"}
    if sde == "ve":
        corrector = {"name": "Langevin", "snr": snr, "norms": "batch"}
        walk = {
            "name": "PredictorCorrector",
            "predictor": {"name": "ReverseDiffusion"},
            "corrector": corrector,
        }
        process, end = {"name": "VE", "sigma_min": 0.02, "sigma_max": 2 * sigma_max}, 1e-5
        told = {"prediction": "unit_score", "inputs": "unit_sigma"}
    else:
        process, end, steps = {"name": {"vp": "VP", "subvp": "SubVP"}[sde]}, 1e-3, 1000
        told = {"prediction": "noise", "inputs": "time"}
    if discrete:
        process, told["inputs"] = (
            {"name": "Discrete", "sde": process, "n": 1000},
            "unit_reversed_label" if sde == "ve" else "label",
        )
        config.objective.times = {"name": "Levels"}
        steps, end = 999, 1 / 1000  # the thousandth is the final denoising
        if sde == "ve":
            config.net.update({"embedding": "positional", "sigmas": (sigma_max, 0.01, 1000)})
        else:
            walk = {"name": "Ancestral", "variance": "transition"}
    config.sde = process
    config.denoiser.update({**told, "sigma_data": 0.5})
    config.samplers.published = {**walk, "grid": "uniform", "steps": steps, "end": end}
    return config


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
    config.sampling.update({"sampler": "published", "batch_size": 64 if pixels < 1024 else 8})
    config.eval.update(
        {"split": "test" if cifar else "validation", "number": 50_000, "samplers": ("published",)}
    )
    return config


def _refinenet(network: str, sde: str, data: str, words: list[str]):
    """Return the configuration of NCSN or NCSNv2, which annealed Langevin dynamics alone samples, level by level."""
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
    if network == "ddpm":
        own = {
            "num_res_blocks": 2,
            "ch_mult": (1, 1, 2, 2, 4, 4) if pixels == 256 else (1, 2, 2, 2),
            "resampling": {"resblock_type": "ddpm"},
            "residual": {"skip_rescale": False},
            "normalisation": {"groups": 32},
        }
        told = {"embedding": "positional"}
        return (
            CIFAR
            | own
            | told
            | ({"scale_by_sigma": True, "centered": False} if sde == "ve" else {})
        )
    told = {"embedding": "positional"}
    if sde == "ve":
        told = {
            "embedding": "fourier",
            "conditioning": {"fourier_scale": 16.0},
            "scale_by_sigma": True,
            "centered": False,
        }
    if network == "ddpmpp":
        return CIFAR | told
    if pixels == 1024:
        return (
            {
                "nf": 16,
                "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
                "num_res_blocks": 1,
                "attn_resolutions": (16,),
            }
            | FIR
            | IMAGES_BESIDE
            | told
        )
    if pixels == 256:
        own = {
            "nf": 128,
            "ch_mult": (1, 1, 2, 2, 2, 2, 2),
            "num_res_blocks": 2,
            "attn_resolutions": (16,),
        }
        return own | FIR | IMAGES_BESIDE | told
    return CIFAR | FIR | IMAGE_ON_THE_WAY_DOWN | told


def _files(pixels: int) -> dict:
    return {"name": "Files", "path": placeholder(str), "image_size": pixels}
