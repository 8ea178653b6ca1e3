"""A classifier of noisy handwritten digits, for classifier guidance: minutes on a CPU.

    python -m experiments.main --config=experiments/configs/digits_classifier.py:vp --workdir=runs/classifier --mode=train
    python -m experiments.main --workdir=runs/digits --mode=sample --config.guidance.name=ClassifierGuidance \\
        --config.guidance.classifier=runs/classifier --config.guidance.scale=1 --config.sampling.label=7

Variants: vp, ve, subvp, cosine, rectified, edm; take that of the run that it shall guide, which was
trained on `experiments/configs/digits.py`. The log has the accuracy on the held-out digits at
several noise levels. Measured with vp, in two minutes of training on one CPU core: 0.99 up to
noise level sigma / alpha = 0.18, 0.82 at 0.81, 0.18 at 3.6. What it does to samples is
measured by `experiments.benchmarks.guided_digits`.
"""

from experiments.configs.common import base_config, choose_sde


def get_config(variant: str = "vp"):
    """Return the configuration of a variant; the docstring of this file lists them."""
    config = base_config()
    choose_sde(config, variant)
    config.data = {"name": "Digits"}
    config.net = {"name": "ImageClassifier", "nf": 32, "ch_mult": (1, 2), "dropout": 0.1}
    config.objective.update({"name": "classifier"})
    config.objective.times = {"name": "LogUniform", "log_snr_min": -10.0}
    config.optim.update({"lr": 1e-3, "warmup": 100, "decay_steps": 1200})
    config.train.update(
        {"steps": 1200, "batch_size": 128, "held_out_every": 200, "checkpoint_every": 400}
    )
    return config
