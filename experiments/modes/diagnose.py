"""`--mode=diagnose`: a health report of a trained score, as one picture, `diagnose/report.png`, with its numbers in `report.json`.

A check fails where a number leaves what a sound model has by more than four of its standard errors, and by more than what training leaves.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sde_lib import LogUniform

from .. import data
from ..errors import RunError
from ..measures import metrics
from ..measures.health import at_level, fokker_planck, linear_denoiser, ratio
from ..measures.health_report import judge, show
from ..measures.pde import score_error
from ..run.build import make_dataset
from ..run.loading import Loaded, template_on_one_device
from ..run.messages import say, say_next
from ..storage import checkpoint
from ..storage.identity import identity
from ..storage.lock import locked
from ..storage.writing import write_json
from .evaluate import real_images
from .sample import ROOM, draw

LEVELS, EXAMPLES, POINTS, SAMPLES = 12, 256, 64, 128
LEAST = 8  # held-out examples: standard errors of fewer say nothing
COMPARED = 5000  # examples of a split that distances are taken to


def diagnose(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    """Run `--mode=diagnose`; return what is written.

    Raises:
        RunError: a split has too few examples for what is compared with it.
    """
    with locked(workdir, "diagnose", room=ROOM):
        return _diagnose(loaded, workdir)


def _diagnose(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    run, dataset = loaded.run, make_dataset(loaded.run.config)
    split = run.config.eval.split
    for name, least in ((split, LEAST), (run.config.eval.train_split, LEAST)):
        if (number := len(dataset.source(name))) < least:
            raise RunError(
                f"a health report takes {least} or more examples of each split, but {name!r} has {number}; "
                "name a larger one in config.eval"
            )
    size = min(EXAMPLES, len(dataset.source(split)))
    batch = next(data.batches(dataset, split, size, seed=run.config.seed, train=False))
    curves = measure(
        loaded,
        dataset,
        {k: jnp.asarray(v) for k, v in batch.items()},
        raw_denoiser(loaded, workdir),
    )
    memory = memorisation(loaded, dataset)
    checks = judge(curves, memory)
    report = {
        **identity(loaded),
        "split": split,
        "healthy": all(check.good for check in checks),
        "checks": [check._asdict() for check in checks],
        "curves": {name: values.tolist() for name, values in curves.items()},
        "memorisation": memory,
    }
    write_json(workdir / "diagnose" / "report.json", report)
    show(
        curves,
        memory,
        checks,
        f"{workdir.name}, step {loaded.step}, {split} set",
        workdir / "diagnose" / "report.png",
    )
    for check in checks:
        say(f"{'ok  ' if check.good else 'FAIL'} {check.name}: {check.finding}")
    say(f"see {workdir / 'diagnose' / 'report.png'}, the numbers are in report.json beside it")
    say_next(workdir, "evaluate")
    return report


def raw_denoiser(loaded: Loaded, workdir: Path) -> Any:
    """Return the denoiser with the weights of the checkpoint that are not averaged."""
    template = template_on_one_device(loaded.run.parameters(), loaded.run.tx)
    return loaded.run.denoiser(checkpoint.restore(workdir, template, loaded.step).state.params)


def measure(loaded: Loaded, dataset: data.DataSet, batch: dict, raw: Any) -> dict[str, np.ndarray]:
    """Return the curves of `health` over noise levels equally spaced in log-SNR, with their standard errors."""
    sde, key = loaded.sde, jax.random.key(1)
    cond = batch["label"] if loaded.run.config.train.conditional else None
    t = LogUniform(log_snr_min=-10.0).quantile(sde, (jnp.arange(LEVELS) + 0.5) / LEVELS)
    train_split = loaded.run.config.eval.train_split
    linear = linear_denoiser(dataset, train_split)

    @eqx.filter_jit
    def levels(denoiser, raw, x, t):
        return jax.lax.map(lambda t: at_level(denoiser, raw, sde, linear, key, x, cond, t), t)

    @eqx.filter_jit
    def residuals(denoiser, x, t):
        few = None if cond is None else cond[: len(x)]
        return jax.lax.map(lambda t: fokker_planck(denoiser, sde, key, x, few, t), t)

    level = jax.tree.map(
        lambda a: np.asarray(a, np.float64), levels(loaded.denoiser, raw, batch["x"], t)
    )
    residual, scale = (
        np.asarray(a, np.float64) for a in residuals(loaded.denoiser, batch["x"][:POINTS], t)
    )
    curves = {"t": np.asarray(t), "level": np.asarray(sde.noise_level(t))}
    curves |= {
        name: getattr(level, name).mean(1) for name in ("loss", "linear", "raw", "predicted")
    }
    pairs = {
        "over_linear": (level.loss, level.linear),
        "over_raw": (level.loss, level.raw),
        "slope": (level.cross, level.square),
        "calibration": (level.loss, level.predicted),
        "asymmetry": (level.twist, level.bend),
    }
    for name, (top, bottom) in pairs.items():
        curves[name], curves[f"{name}_error"] = ratio(top, bottom)
    curves["fokker_planck"] = np.sqrt(np.maximum(residual, 0) / scale)
    if len(dataset.shape) == 1 and dataset.shape[0] <= 2 and cond is None:
        known = dataset.codec.expected(real_images(dataset, train_split))
        curves["pde"] = score_error(loaded.denoiser, sde, known, np.asarray(t))
    # elsewhere every denoiser knows all, or nothing
    curves["judged"] = (curves["linear"] > 0.01) & (curves["linear"] < 0.95)
    return curves


def memorisation(loaded: Loaded, dataset: data.DataSet) -> dict[str, float]:
    """Return median distances to the nearest training example: of samples, of held-out data, and of training data, in raw values.

    A copy is a sample that is nearer than a quarter of what training examples are to each other. Samples that are not finite are left out.
    """
    run, config = loaded.run, loaded.run.config
    real, held_out = (
        real_images(dataset, split, limit=COMPARED)
        for split in (config.eval.train_split, config.eval.split)
    )
    name = "ddim" if "ddim" in config.samplers else config.sampling.sampler
    drawn = draw(run, loaded.denoiser, config.samplers[name], np.arange(SAMPLES)).x
    finite = np.isfinite(drawn).reshape(SAMPLES, -1).all(1)
    fake = run.facts.codec.decode(drawn[finite])
    samples = metrics.nearest_distances(fake, real) if finite.any() else np.zeros(0)
    training = float(np.median(metrics.nearest_distances(real)))
    return {
        "samples": float(np.median(samples)) if finite.any() else np.nan,
        "held_out": float(np.median(metrics.nearest_distances(held_out, real))),
        "training": training,
        "copies": float(np.mean(samples < 0.25 * training)) if finite.any() else 0.0,
        "finite": bool(finite.all()),
    }
