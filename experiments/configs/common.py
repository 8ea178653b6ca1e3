"""What all configurations share: the sections and their defaults.

A configuration states only what it changes.
"""

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

# DDPM++ of Song et al. 2021 (arXiv:2011.13456) for CIFAR-10: 61.8 M parameters.
DDPMPP = {
    "name": "UNet",
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "num_res_blocks": 4,
    "attn_resolutions": (16,),
    "dropout": 0.1,
}


def base_config() -> ConfigDict:
    """Return the defaults; `data` and `net` have to be named.

    The comment beside a setting describes it, in docs/command_line.md too; comments above a setting
    are for readers of this file.
    """
    return ConfigDict(
        {
            "seed": 0,  # of everything random in training
            "devices": 0,  # how many devices to use; 0: all
            "placement": {
                "fsdp": 1,  # devices that share the weights, with their moments and averages: each keeps a part of every large array
                "split_update": False,  # split moments and averages over all devices: each updates its part of the weights
                "rules": (),  # PATTERN=AXIS for arrays not to be split along their largest axis: "norm=whole", "embedding=0"
            },
            "data": {},  # the data set: a class of experiments.data as `name`, and its settings
            # measured when training
            "facts": {},  # what is known of the data without reading them: shape, levels, num_classes, sd, cond_shape
            "sde": {"name": "VP"},  # the process: a class of sde_lib as `name`, and its settings
            "net": {},  # the network: a class of models as `name`, and its settings
            "denoiser": {
                "prediction": "edm",  # what the network predicts, a row of `PREDICTIONS`
                "inputs": "edm",  # what the network is fed, a row of `INPUTS`
                "sigma_data": 0.0,  # standard deviation of the data; 0: measured
            },
            "objective": {
                "name": "denoising",  # denoising or sliced score matching, or classifier: learn the class of noisy data
                "weighting": "prediction",  # how much an error counts, a row of `WEIGHTINGS`
                "times": {"name": "Uniform"},  # where training times fall: a class of sde_lib
                "stratified": True,  # draw one time in each of as many equal parts as there are examples
                "uncertainty": False,  # learn the weights of the noise levels as well
                "adapt_every": 0,  # steps after which the times move to where the loss is large (`adaptive`); 0: never
                "adapt_bins": 16,  # parts of the distribution of times that are weighted by `adapt_every`
            },
            "optim": {
                "name": "adam",  # any optimiser of optax, with its own settings beside: adamw and weight_decay
                "lr": 2e-4,  # learning rate after the warm-up
                "warmup": 5000,  # updates in which the learning rate grows from 0
                "clip": 1.0,  # largest norm of the whole gradient; 0: no clipping
                "schedule": "",  # constant, cosine, linear; "": cosine where decay_steps is given, otherwise constant
                "decay_steps": 0,  # the update at which the learning rate arrives at 0
                "unit_weights": False,  # end every update at weights of unit magnitude; True for MPUNet
            },
            "ema": 0.999,  # rate of the moving average of the weights
            "averages": {
                "rates": (),  # rates of further moving averages that are kept beside it
                "snapshot_every": 0,  # updates between stored snapshots of power-function averages; 0: none are kept
                "sigma_rel": (0.05, 0.1),  # their relative widths, of which others are made
            },
            "average": "ema",  # the one that every mode but training uses: ema; ema=0.9999, one of `rates`; sigma_rel=0.15
            "train": {
                "steps": 100_000,  # how many updates
                "batch_size": 128,  # examples a batch
                "accumulate": 1,  # batches an update: their mean gradient, in the memory of one of them
                "split": "train",  # the split to train on
                "held_out": "validation",  # the split whose loss is logged beside; "": none
                "flip": False,  # mirror each image left to right with probability one half
                "augment": 0.0,  # probability of each geometric augmentation, which the network is told; 0: none
                "balance": False,  # draw every class equally often, however many examples it has
                "conditional": False,  # give the network the class of each example, or the condition that the data have
                "label_dropout": 0.1,  # probability that it is given neither, so that it learns both
                "log_every": 50,  # updates between entries of the log
                "held_out_every": 1000,  # updates between measurements of the held-out loss
                "sample_every": 0,  # updates between pictures of samples; 0: never
                "checkpoint_every": 1000,  # updates between checkpoints
                "patience": 600.0,  # of several processes: seconds without a step after which they end
                "keep": 2,  # how many of the newest checkpoints stay
                "keep_period": 0,  # checkpoints at multiples of this stay too; 0: none
            },
            "dequantise": {
                "steps": 2000,  # updates of the flow
                "batch_size": 64,  # examples a batch
                "lr": 1e-3,  # learning rate
                "width": 32,  # features of a coupling of the flow
                "layers": 4,  # couplings of the flow
            },
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
                "sampler": "best",  # an entry of config.samplers
                "number": 64,  # how many samples; a larger number goes on from those that are there
                "batch_size": 64,  # samples a batch, which one file holds
                "block": 8,  # images that a device computes together, so that no batch size changes a grey level; 0: a batch
                "format": "npz",  # how samples are gathered: npz: one file; png: a folder of images; parts: not, they stay in batches
                "seed": 0,  # of all draws with a trained network
                "label": -1,  # the class to draw; -1: all in turn
                "condition": "",  # .npy or .npz file of conditions that are no classes: one, or one for each sample in turn
                "keep": 0,  # how many of the last states of the walk to store; 0: none, -1: all
            },
            # classifier, weaker and weaker_step come from other runs, see experiments/run/guidance.py
            "guidance": {},  # how samples are steered: a class of sde_lib.guidance as `name`, and its settings; {}: not
            "fit": {
                "nfe": 5,  # network evaluations of the solver; with guidance, calls of the guided denoiser
                "noises": 64,  # starts to fit it on, of which half are held out
                "updates": 160,  # updates of its numbers
                "rate": 0.03,  # learning rate
                "save_as": "",  # the name that sampling knows it by; "": fit5 for 5 evaluations
            },
            "inverse": {
                "operator": {"name": "Mask"},  # what is measured, a row of `OPERATORS` as `name`
                "std": 0.05,  # standard deviation of the noise, in model values, in which images reach from -1 to 1
                "noise": "",  # file in place of std: a standard deviation of each measured value, or the covariance matrix of the noise
                "method": "jfps",  # how to restore, a row of `METHODS`: jfps, mmps, tmpd, pigdm, diffpir, dps, daps, tds ...
                "settings": {},  # of the method, such as iterations of jfps
                "steps": 0,  # of the walk; 0: as many as suit the method
                "samples": 8,  # of each observation
                "observation": (),  # files of observations, images or arrays, joined by commas; none: examples of the data are measured
                "split": "test",  # the split that these examples are of
                "number": 4,  # how many of them
            },
            "eval": {
                "split": "test",  # the split to look at
                "train_split": "train",  # the split that was trained on, for comparisons
                "batch_size": 256,  # examples a batch
                "examples": 0,  # the first examples whose likelihood is measured, in whole batches; 0: all
                "probes": 4,  # products that estimate a trace; 0: exact trace
                "trace": "rademacher",  # how the probes estimate it, a row of `TRACES`
                "bound_draws": 64,  # times drawn for the variational bound, an even number; 0: no bound
                "dequantise": False,  # with the flow that --mode=dequantise has trained, instead of uniformly
                "rtol": 1e-4,  # tolerance of the coarser of two solves; the likelihood is that of a tenth of it
                "samplers": ("pc", "ddim", "ode"),  # entries of config.samplers to compare
                "number": 1000,  # samples of each
                "features": "",  # compare images in: file of train_features, Inception or DINOv2; "": the package's if grey and small; none
                "reference": "",  # file of features of training images, written if missing; "": in the run directory
                "latency": False,  # seconds of an image by evaluations and batch size, which takes minutes of compiling
            },
        }
    )


def train_on_cpu(config: ConfigDict, coarsest: int) -> None:
    """Set a U-Net of 1.3 M parameters, and a training that fits two CPU cores.

    It has three levels; `coarsest` is the height of the last of them, at which attention stands.
    """
    # Steps of 64 images of 28 x 28 pixels on two quiet cores: 115 images a second; 202 with 16, 32,
    # 64 channels (0.74 M parameters), 87 with 32, 64, 128 (3.0 M).
    config.net = {
        "name": "UNet",
        "nf": 32,
        "ch_mult": (1, 2, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (coarsest,),
    }
    config.objective.times = {"name": "LogNormal", "mean": -1.2, "std": 1.4}
    config.optim.update({"lr": 1e-3, "warmup": 200, "decay_steps": 6000})
    config.train.update(
        {"steps": 6000, "batch_size": 64, "held_out_every": 2000, "checkpoint_every": 500}
    )
    # Chosen on digits, not on these images.
    config.samplers.pc.update({"predictor": {"name": "DDIM"}, "grid": "centred", "steps": 50})
    config.samplers.ode.update({"rtol": 1e-2, "atol": 1e-2})
    for nfe in (5, 10, 50):
        config.samplers[f"best{nfe}"] = {"name": "recommended", "nfe": nfe, "stochastic": False}
    # A likelihood of an image takes as long as hundreds of evaluations.
    config.eval.update({"batch_size": 125, "examples": 500, "probes": 2, "rtol": 3e-3})
    config.eval.samplers = ("best5", "best10", "best", "best50")
    config.sampling.batch_size = 250


def train_on_gpu(config: ConfigDict) -> None:
    """Set `DDPMPP` in bfloat16, and a training for one large GPU."""
    config.net = {**DDPMPP, "dtype": "bfloat16"}
    config.ema = 0.9999
    config.train.update(
        {
            "steps": 100_000,
            "batch_size": 256,
            "log_every": 500,
            "held_out_every": 5000,
            "sample_every": 10_000,
            "checkpoint_every": 5000,
        }
    )
    config.eval.update({"number": 10_000})
    config.sampling.update({"batch_size": 500, "block": 125})


def weight_by_likelihood(config: ConfigDict) -> None:
    """Set the likelihood weighting, by importance sampling of the times."""
    config.objective.update({"weighting": "noise"})
    config.objective.times = {"name": "LogUniform", "log_snr_min": -20.0}


def choose_sde(config: ConfigDict, variant: str, others: tuple[str, ...] = ()) -> list[str]:
    """Set the SDE that a variant such as "ve" or "subvp,cond" names, VP by default.

    Return the variant's other words.
    """
    words = [word for word in variant.split(",") if word]
    if unknown := [word for word in words if word not in SDES and word not in others]:
        raise RunError(
            f"unknown variant {unknown[0]!r}; choose from {', '.join([*SDES, *others])}, joined by "
            "commas"
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
