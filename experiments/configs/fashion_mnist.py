"""Fashion-MNIST: 70,000 photographs of clothes, 28x28 grey pixels, 10 classes.

    apt-get install dataset-fashion-mnist
    python -m experiments.main --config=experiments/configs/fashion_mnist.py:vp --workdir=runs/fashion --mode=train

Without the Debian package --config.data.path=FOLDER names the folder of the four IDX files.
Variants: vp, ve, subvp, cosine, rectified, edm; with ",cond" conditional on the class, with
",likelihood" trained on the likelihood weighting by importance sampling of the times. By default a
U-Net of 1.3 M parameters for two CPU cores, with levels of 28, 14 and 7 pixels. With ",gpu" the
61.8 M of CIFAR-10's DDPM++ in bfloat16, for one large GPU: its four levels need 32 pixels, so that
the network puts a border of 2 around the images and cuts it off; all likelihoods are those of the
784 pixels.

6000 steps of 64 take about 55 minutes on two quiet cores; docs/measured.md says what vp,cond reaches.
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
    config.data = {"name": "FashionMNIST"}
    config.facts = {"shape": (28, 28, 1), "levels": 256, "num_classes": 10, "sd": 0.702}
    if "gpu" in words:
        train_on_gpu(config)
        config.net.pad = 2
    else:
        train_on_cpu(config, coarsest=7)
    if "likelihood" in words:
        weight_by_likelihood(config)
    config.train.conditional = "cond" in words
    return config
