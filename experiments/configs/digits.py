"""Handwritten digits, 8x8, of scikit-learn: a U-Net that trains in minutes on a CPU.

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits --mode=train

Variants: vp, ve, subvp; with ",cond" conditional on the digit.
"""

from experiments.configs.common import base_config, choose_sde


def get_config(variant: str = "vp"):
    config = base_config()
    words = choose_sde(config, variant, ("cond",))
    config.data = {"name": "Digits"}
    config.net = {"name": "UNet", "nf": 32, "ch_mult": (1, 2), "num_res_blocks": 2, "attn_resolutions": (4,), "dropout": 0.0}
    config.optim.update({"lr": 1e-3, "warmup": 200, "decay_steps": 3000})
    config.train.update({"steps": 3000, "held_out_every": 250, "checkpoint_every": 500, "conditional": "cond" in words})
    config.eval.update({"batch_size": 297, "train_split": "fit", "number": 1500})
    config.sampling.batch_size = 500
    return config
