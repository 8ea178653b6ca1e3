"""Satellite: 32x32 colour tiles of NASA's Blue Marble, six classes of latitude and land or sea.

    pip install -e ".[satellite]"
    python -m experiments.main --config=experiments/configs/satellite.py:vp --workdir=runs/satellite --mode=train

Variants: vp, ve, subvp, cosine, rectified, edm; with ",cond" conditional on the class, with
",likelihood" trained on the likelihood weighting by importance sampling of the times. By default a
U-Net of 1.3 M parameters for two CPU cores; with ",gpu" the 61.8 M of CIFAR-10's DDPM++ in
bfloat16, for one large GPU. There are 4,847 tiles to train on, mirrored at random, of which a
network of 61.8 M will learn many by heart: look at --mode=diagnose. 2400 steps of 64
take about 30 minutes on two quiet cores.
"""

from experiments.configs.common import (
    base_config,
    choose_sde,
    train_on_cpu,
    train_on_gpu,
    weight_by_likelihood,
)


def get_config(variant: str = "vp"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    config = base_config()
    words = choose_sde(config, variant, ("cond", "likelihood", "gpu"))
    config.data = {"name": "Satellite"}
    config.facts = {"shape": (32, 32, 3), "levels": 256, "num_classes": 6, "sd": 0.5}
    if "gpu" in words:
        train_on_gpu(config)
    else:
        train_on_cpu(config, coarsest=8)
        config.optim.decay_steps = 2400
        config.train.steps = 2400
    if "likelihood" in words:
        weight_by_likelihood(config)
    config.train.update({"flip": True, "conditional": "cond" in words})
    # there are 601 test tiles to compare with
    config.eval.number = 600
    return config
