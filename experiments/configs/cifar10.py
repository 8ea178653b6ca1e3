"""CIFAR-10, full size: DDPM++ of Song et al. 2021 (arXiv:2011.13456) with EDM's preconditioning.

    python -m experiments.data.prepare cifar10
    python -m experiments.main --config=experiments/configs/cifar10.py:vp --workdir=runs/cifar10 --mode=train

Meant for accelerators. Not run here: the data cannot be downloaded where this was written; what is
tested is --dry_run. Published for the continuous VP model of this size, trained for 1.3 million
steps: FID 2.55 with 1000 Euler-Maruyama steps, 3.16 bits/dim. Variants: vp, ve, subvp; with ",cond"
conditional on the class.
"""

from experiments.configs.common import DDPMPP, base_config, choose_sde


def get_config(variant: str = "vp"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    config = base_config()
    words = choose_sde(config, variant, ("cond",))
    config.data = {"name": "TFDS", "dataset": "cifar10"}
    config.facts = {"shape": (32, 32, 3), "levels": 256, "num_classes": 10, "sd": 0.5}
    config.net = dict(DDPMPP)
    config.ema = 0.9999
    config.train.update(
        {"steps": 1_300_000, "flip": True, "held_out": "test", "conditional": "cond" in words}
    )
    config.train.update(
        {
            "log_every": 500,
            "held_out_every": 10_000,
            "sample_every": 10_000,
            "checkpoint_every": 10_000,
            "keep_period": 50_000,
        }
    )
    config.samplers.pc.steps = 1000
    config.eval.update({"number": 50_000})
    config.sampling.update({"batch_size": 256, "block": 128})
    return config
