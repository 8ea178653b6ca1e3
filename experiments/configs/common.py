"""What all configurations share: the sections and their defaults. A configuration states only what it changes."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from experiments.errors import RunError

# The SDE of each variant.
SDES = {
    "vp": {"name": "VP"},
    "ve": {
        "name": "VE",
        "sigma_min": 0.02,
        "sigma_max": 100.0,
    },  # the published 0.01 and 50, for data in [-1, 1] instead of [0, 1]
    "subvp": {"name": "SubVP"},
    "cosine": {"name": "Cosine"},
    "rectified": {"name": "Rectified"},
    "edm": {"name": "EDM"},
}


def base_config() -> ConfigDict:
    """Return the defaults; `data` and `net` have to be named."""
    return ConfigDict(
        {
            "seed": 0,
            "devices": 0,  # 0: all
            "data": {},
            "facts": {},  # what is known of the data without reading them: shape, levels, num_classes, sd; measured when training
            "sde": {"name": "VP"},
            "net": {},
            "denoiser": {"prediction": "edm", "inputs": "edm", "sigma_data": 0.0},  # 0: measured
            "objective": {
                "name": "denoising",  # or sliced
                "weighting": "prediction",
                "times": {"name": "Uniform"},
                "stratified": True,
                "uncertainty": False,  # learn the weights of the noise levels as well
                "adapt_every": 0,  # steps after which the times move to where the loss is large (`adaptive`); 0: never
                "adapt_bins": 16,
            },
            "optim": {
                "name": "adam",  # any optimiser of optax, with its own settings beside: adamw and weight_decay
                "lr": 2e-4,
                "warmup": 5000,  # updates
                "clip": 1.0,
                "schedule": "",  # constant, cosine, linear; "": cosine where decay_steps is given, otherwise constant
                "decay_steps": 0,  # the update at which the learning rate arrives at 0
                "unit_weights": False,  # True for MPUNet
            },
            "ema": 0.999,
            "train": {
                "steps": 100_000,  # updates
                "batch_size": 128,
                "accumulate": 1,  # batches an update: their mean gradient, in the memory of one of them
                "split": "train",
                "held_out": "validation",  # "": none
                "flip": False,
                "conditional": False,
                "label_dropout": 0.1,
                "log_every": 50,
                "held_out_every": 1000,
                "sample_every": 0,  # 0: never
                "checkpoint_every": 1000,
                "keep": 2,
                "keep_period": 0,
            },
            "dequantise": {"steps": 2000, "batch_size": 64, "lr": 1e-3, "width": 32, "layers": 4},
            "samplers": {
                "best": {"name": "recommended", "nfe": 20, "stochastic": False},
                "pc": {
                    "name": "PredictorCorrector",
                    "predictor": {"name": "EulerMaruyama"},
                    "corrector": {"name": "Langevin", "snr": 0.16},
                    "grid": "log_snr",  # starts below t = 1 where a process leaves no signal there
                    "steps": 500,
                },
                # Grids end, unless told otherwise, where noise is a hundredth of the data.
                "ddim": {"name": "DDIM", "grid": "centred", "steps": 50},
                "ode": {"name": "probability_flow", "rtol": 1e-3, "atol": 1e-3},
            },
            "sampling": {
                "sampler": "best",
                "number": 64,
                "batch_size": 64,
                "seed": 0,
                "label": -1,
                "keep": 0,
            },
            "fit": {
                "nfe": 5,
                "noises": 64,
                "updates": 160,
                "rate": 0.03,
                "save_as": "",
            },  # "": fit<nfe>
            "eval": {
                "split": "test",
                "train_split": "train",
                "batch_size": 256,
                "probes": 4,  # 0: exact trace
                "trace": "rademacher",
                "bound_draws": 64,  # of the variational bound; 0: none
                "dequantise": False,  # with the flow that --mode=dequantise has trained, instead of uniformly
                "rtol": 1e-4,
                "samplers": ("pc", "ddim", "ode"),
                "number": 1000,
                "latency": False,  # seconds of an image by evaluations and batch size, which takes minutes of compiling
            },
        }
    )


def choose_sde(config: ConfigDict, variant: str, others: tuple[str, ...] = ()) -> list[str]:
    """Set the SDE that a variant such as "ve" or "subvp,cond" names, VP by default; return the variant's other words."""
    words = [word for word in variant.split(",") if word]
    if unknown := [word for word in words if word not in SDES and word not in others]:
        raise RunError(
            f"unknown variant {unknown[0]!r}; choose from {', '.join([*SDES, *others])}, joined by commas"
        )
    config.sde = SDES[choose(words, SDES, "vp")]
    return words


def choose(words: list[str], choices: Iterable[str], default: str) -> str:
    """Return the word of a variant that is one of `choices`, or the default.

    Raises:
        RunError: two different ones, of which only one could hold.
    """
    given = list(dict.fromkeys(word for word in words if word in choices))
    if len(given) > 1:
        raise RunError(f"a variant names one of {', '.join(choices)}, got {' and '.join(given)}")
    return given[0] if given else default
