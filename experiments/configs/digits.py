"""Handwritten digits, 8x8, of scikit-learn: a U-Net that trains in minutes on a CPU.

    python -m experiments.main --config=experiments/configs/digits.py:vp --workdir=runs/digits --mode=train

Variants: vp, ve, subvp, cosine, rectified, edm; with ",cond" conditional on the digit, with ",edm2"
or ",dit" by EDM2's network or a transformer instead of the U-Net, with ",likelihood" trained on the
likelihood weighting by importance sampling of the times. Bits/dim of the test set (297 images;
standard errors 0.014 to 0.018), trained on the other 1500 (`--config.train.split=fit
--config.train.held_out= --config.eval.train_split=fit --config.eval.bound_draws=64`), by
`--mode=likelihood`, then `--mode=dequantise` and `--mode=likelihood --config.eval.dequantise=True`;
in brackets the bound (0.016 to 0.040):

    variant             uniformly dequantised  variational
    vp                  1.938 (2.078)          1.891 (2.018)
    vp,likelihood       1.942 (1.965)          1.892 (1.921)
    ve                  1.945 (2.109)          1.905 (2.079)
    ve,likelihood       1.936 (2.062)          1.887 (2.032)
    subvp               1.938 (3.055)          1.923 (2.855)
    subvp,likelihood    1.960 (1.971)          1.905 (1.925)

Six minutes of training, 2.5 of the dequantiser and 1.2 of each likelihood, on 2 CPU cores.
"""

from experiments.configs.common import base_config, choose, choose_sde, weight_by_likelihood

NETS = {
    "edm2": {
        "name": "MPUNet",
        "nf": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "head_features": 32,
    },
    "dit": {"name": "DiT", "width": 96, "depth": 4, "heads": 4},
}


def get_config(variant: str = "vp"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    config = base_config()
    words = choose_sde(config, variant, ("cond", "likelihood", *NETS))
    config.data = {"name": "Digits"}
    config.net = {
        "name": "UNet",
        "nf": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
    }
    config.objective.times = {"name": "LogNormal", "mean": -1.2, "std": 1.4}
    if network := choose(words, NETS, ""):
        config.net = dict(NETS[network])
    if "likelihood" in words:
        weight_by_likelihood(config)
    config.optim.update({"lr": 1e-3, "warmup": 200, "decay_steps": 1800})
    if "edm2" in words:
        config.optim.update({"lr": 1e-2, "unit_weights": True})
    config.train.update(
        {
            "steps": 1800,
            "held_out_every": 250,
            "checkpoint_every": 500,
            "conditional": "cond" in words,
        }
    )
    # chosen on the last 200 training digits: DDIM as the predictor keeps the variance that
    # Ancestral loses at so few steps
    config.samplers.pc.update({"predictor": {"name": "DDIM"}, "grid": "centred", "steps": 30})
    config.samplers.ddim.steps = 30
    config.samplers.ode.update({"rtol": 1e-2, "atol": 1e-2})
    config.eval.update({"batch_size": 150, "probes": 2, "rtol": 3e-3, "number": 1500})
    config.sampling.update({"batch_size": 500, "block": 50})
    return config
