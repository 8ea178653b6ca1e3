"""Densities in the plane: checkerboard, swiss_roll, mixture, moons. An MLP, half a minute on a CPU.

    python -m experiments.main --config=experiments/configs/toy.py:checkerboard --workdir=runs/toy --mode=train

Variants: one of the densities, and vp, ve or subvp: "moons,ve".
"""

from experiments.configs.common import base_config, choose, choose_sde

DENSITIES = ("checkerboard", "swiss_roll", "mixture", "moons")


def get_config(variant: str = "checkerboard"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    config = base_config()
    words = choose_sde(config, variant, DENSITIES)
    config.data = {
        "name": "Toy",
        "density": choose(words, DENSITIES, "checkerboard"),
    }
    config.net = {"name": "MLP", "width": 128, "depth": 4}
    config.optim.update({"lr": 2e-3, "warmup": 100, "decay_steps": 5000})
    config.train.update({"steps": 5000, "batch_size": 512})
    config.samplers.pc.corrector = {
        "name": "AnnealedLangevin",
        "snr": 0.16,
    }  # norms of two numbers are too erratic for Langevin
    config.sampling.update({"number": 2000, "batch_size": 2000})
    config.eval.update({"probes": 0, "batch_size": 1000, "number": 2000})
    return config
