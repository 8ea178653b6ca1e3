"""Handwritten digits, 8x8, of scikit-learn: a U-Net that trains in minutes on a CPU.

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits --mode=train

Variants: vp, ve, subvp; with ",cond" conditional on the digit.
"""

from experiments.configs.common import base_config, choose_sde


def get_config(variant: str = "vp"):
    config = base_config()
    words = choose_sde(config, variant, ("cond",))
    config.data = {"name": "Digits"}
    config.net = {"name": "UNet", "nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
    config.objective.times = {"name": "LogNormal", "mean": -1.2, "std": 1.4}
    config.optim.update({"lr": 1e-3, "warmup": 200, "decay_steps": 1800})
    config.train.update({"steps": 1800, "held_out_every": 250, "checkpoint_every": 500, "conditional": "cond" in words})
    # chosen on the last 200 training digits: DDIM as the predictor keeps the variance that Ancestral loses at so few steps
    config.samplers.pc.update({"predictor": {"name": "DDIM"}, "grid": "quadratic", "steps": 30})
    config.samplers.ddim.steps = 30
    config.samplers.ode.update({"rtol": 1e-2, "atol": 1e-2})
    config.eval.update({"batch_size": 150, "probes": 2, "rtol": 3e-3, "number": 1500})
    config.sampling.batch_size = 500
    return config
