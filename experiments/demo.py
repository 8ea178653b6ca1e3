"""`make demo`: train on real handwritten digits, draw new ones, measure them and show them.

The new ones are drawn with three samplers.

Trains on the first 1500 of scikit-learn's digits and opens the other 297 once, at the end.
Interrupted, the same command goes on.
"""

import shutil
import sys
import time
from pathlib import Path

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from .configs import digits
from .errors import RunError
from .modes.evaluate import evaluate
from .modes.train import train
from .run.build import make_dataset
from .run.devices import set_up_jax
from .run.loading import load
from .storage import pictures

WORKDIR = Path("runs/demo")


def demo_config():
    """Return the digits configuration, trained on everything but the test set."""
    config = digits.get_config("vp")
    for name in ("pc", "ddim"):  # the grid that the published figures of the demo were measured on
        config.samplers[name].update({"grid": "quadratic", "end": 1e-3})
    config.samplers.ode.end = 1e-3
    config.train.update({"split": "fit", "held_out": ""})
    config.eval.update({"train_split": "fit", "bound_draws": 0})
    return config


def main() -> None:
    """Train the demo's run, evaluate it, and draw its picture."""
    set_up_jax()
    logging.set_verbosity(logging.FATAL)  # what libraries log as errors they raise as well
    start = time.perf_counter()
    config = demo_config()
    print(
        f"1/3  training a score network on 1500 handwritten digits ({config.train.steps} steps) in "
        f"{WORKDIR}",
        flush=True,
    )
    train(config, WORKDIR)
    trained = time.perf_counter()
    print(
        "2/3  drawing 1500 digits with each sampler, and the likelihood of the 297 digits not "
        "trained on",
        flush=True,
    )
    loaded = load(WORKDIR)
    report = evaluate(loaded, WORKDIR)
    path = show(report, WORKDIR)
    minutes = ((trained - start) / 60, (time.perf_counter() - trained) / 60)
    print(
        f"3/3  {minutes[0]:.1f} min of training, {minutes[1]:.1f} of evaluation; see {path} and "
        f"{WORKDIR}/evaluation.json"
    )


def show(report: dict, workdir: Path) -> Path:
    """Draw real digits beside those of each sampler, with their scores; return the path."""
    dataset = make_dataset(demo_config())
    source = dataset.source("fit")
    panels = {"real digits": np.stack([source[i]["x"] for i in range(49)])}
    for name, row in report["samplers"].items():
        title = (
            f"{name}, NFE {row['nfe']}\n1-NN {row['one_nn_train']['value']:.2f}, "
            f"{row['seconds']:.0f} s for 1500"
        )
        first_batch, *_ = sorted((workdir / "samples" / name).glob("batch_*.npz"))
        with np.load(first_batch) as saved:
            panels[title] = saved["x"][:49]
    figure = Figure(figsize=(3.2 * len(panels), 3.7), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, x) in zip(axes, panels.items(), strict=True):
        image = np.repeat((x * (255 / 16)).astype(np.uint8), 3, axis=-1)
        axis.imshow(pictures.grid(image), interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    bits = report["likelihood"]
    figure.suptitle(
        f"test set: {bits['bits_per_dim']:.3f} ± {bits['std_error']:.3f} bits/dim", fontsize=11
    )
    path = workdir / "digits.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    if "--fresh" in sys.argv:
        shutil.rmtree(WORKDIR, ignore_errors=True)
    try:
        main()
    except (RunError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
