"""`--mode=diagnose`: a health report of a trained score.

It is one picture, `diagnose/report.png`, with its numbers in `report.json`. A check fails where a
number leaves what a sound model has by more than four of its standard errors, and by more than what
training leaves.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import LogUniform

from .. import data
from ..card.page import update_card
from ..errors import RunError
from ..measures import metrics
from ..measures.health import at_level, fokker_planck, linear_denoiser, ratio
from ..measures.health_report import judge, show
from ..measures.pde import score_error
from ..run.build import make_dataset
from ..run.conditions import conditions_of
from ..run.guidance import guided
from ..run.loading import Loaded, restore_state
from ..run.messages import say, say_next
from ..storage.identity import identity
from ..storage.lock import ROOM, locked
from ..storage.writing import write_json
from .evaluate import real_images
from .sample import check_can_draw, draw

LEVELS = 12  # noise levels
EXAMPLES = 256  # held-out examples that the curves are means over
POINTS = 64  # of them, for the Fokker-Planck equation
SAMPLES = 128
LEAST = 8  # held-out examples: standard errors of fewer say nothing
COMPARED = 5000  # examples of a split that distances are taken to


def diagnose(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    """Run `--mode=diagnose`; return what is written.

    Raises:
        RunError: a split has too few examples for what is compared with it.
    """
    with locked(workdir, "diagnose", room=ROOM):
        report = _diagnose(loaded, workdir)
    update_card(workdir)
    return report


def _diagnose(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    run = loaded.run
    check_can_draw(loaded)
    steered = guided(loaded)
    dataset = make_dataset(run.config)
    split = run.config.eval.split
    for name in (split, run.config.eval.train_split):
        if (number := len(dataset.source(name))) < LEAST:
            raise RunError(
                f"a health report takes {LEAST} or more examples of each split, but {name!r} has "
                f"{number}; name a larger one in config.eval"
            )
    size = min(EXAMPLES, len(dataset.source(split)))
    batch = next(data.batches(dataset, split, size, seed=run.config.seed, train=False))
    batch = {name: jnp.asarray(values) for name, values in batch.items()}
    curves = health_curves(loaded, dataset, batch, raw_denoiser(loaded, workdir))
    memory = memorisation(loaded._replace(denoiser=steered.denoise), dataset)
    checks = judge(curves, memory)
    report = {
        **identity(loaded),
        "split": split,
        "guidance": steered.identity,
        "healthy": all(check.good for check in checks),
        "checks": [check._asdict() for check in checks],
        "curves": {name: values.tolist() for name, values in curves.items()},
        "memorisation": memory,
    }
    picture = workdir / "diagnose" / "report.png"
    write_json(picture.with_name("report.json"), report)
    show(curves, memory, checks, f"{workdir.name}, step {loaded.step}, {split} set", picture)
    for check in checks:
        say(f"{'ok  ' if check.good else 'FAIL'} {check.name}: {check.finding}")
    say(f"see {picture}, the numbers are in report.json beside it")
    say_next(workdir, "evaluate")
    return report


def raw_denoiser(loaded: Loaded, workdir: Path) -> Any:
    """Return the denoiser with the weights of the checkpoint that are not averaged."""
    return loaded.run.denoiser(restore_state(loaded.run, workdir, loaded.step).params)


def health_curves(
    loaded: Loaded, dataset: data.DataSet, batch: dict, raw: Any
) -> dict[str, np.ndarray]:
    """Return the curves of a health report over `LEVELS` levels equally spaced in log-SNR.

    Args:
        loaded: the run, with the averaged weights.
        dataset: its data.
        batch: examples, as arrays on the device.
        raw: the denoiser with the weights that are not averaged.

    Returns:
        Arrays (LEVELS,) by name, "NAME_error" being the standard error of "NAME".
    """
    sde = loaded.sde
    cond = conditions_of(loaded.run, batch)
    t = LogUniform(log_snr_min=-10.0).quantile(sde, (jnp.arange(LEVELS) + 0.5) / LEVELS)
    train_split = loaded.run.config.eval.train_split
    linear = linear_denoiser(dataset, train_split)
    curves = {"t": np.asarray(t), "level": np.asarray(sde.noise_level(t))}
    curves |= _curves_of_means(_levels(loaded, raw, linear, batch["x"], cond, t))
    residual, scale = _residuals(loaded, batch["x"][:POINTS], cond, t)
    curves["fokker_planck"] = np.sqrt(np.maximum(residual, 0) / scale)
    if len(dataset.shape) == 1 and dataset.shape[0] <= 2 and cond is None:
        known = dataset.codec.expected(real_images(dataset, train_split))
        curves["pde"] = score_error(loaded.denoiser, sde, known, np.asarray(t))
    # Elsewhere every denoiser knows all of the noise, or nothing.
    curves["judged"] = (curves["linear"] > 0.01) & (curves["linear"] < 0.95)
    return curves


def _levels(loaded: Loaded, raw: Any, linear: Any, x: Array, cond: Any, t: Array) -> Any:
    """Return a `Level` of arrays (levels, batch), in float64, at times `t` with data `x`."""
    sde = loaded.sde
    key = jax.random.key(1)

    @eqx.filter_jit
    def levels(denoiser, raw, x, t):
        return jax.lax.map(lambda t: at_level(denoiser, raw, sde, linear, key, x, cond, t), t)

    values = levels(loaded.denoiser, raw, x, t)
    return jax.tree.map(lambda a: np.asarray(a, np.float64), values)


def _residuals(loaded: Loaded, x: Array, cond: Any, t: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return residual and scale of the Fokker-Planck equation at each time `t`, (levels,)."""
    sde = loaded.sde
    key = jax.random.key(1)
    cond = jax.tree.map(lambda c: c[: len(x)], cond)

    @eqx.filter_jit
    def residuals(denoiser, x, t):
        return jax.lax.map(lambda t: fokker_planck(denoiser, sde, key, x, cond, t), t)

    residual, scale = residuals(loaded.denoiser, x, t)
    return np.asarray(residual, np.float64), np.asarray(scale, np.float64)


def _curves_of_means(level: Any) -> dict[str, np.ndarray]:
    """Return the curves that are means, or their ratios, of a `Level` of arrays (levels, batch)."""
    curves = {}
    for name in ("loss", "linear", "raw", "predicted"):
        curves[name] = getattr(level, name).mean(1)
    pairs = {
        "over_linear": (level.loss, level.linear),
        "over_raw": (level.loss, level.raw),
        "slope": (level.cross, level.square),
        "calibration": (level.loss, level.predicted),
        "asymmetry": (level.twist, level.bend),
    }
    for name, (top, bottom) in pairs.items():
        curves[name], curves[f"{name}_error"] = ratio(top, bottom)
    return curves


def memorisation(loaded: Loaded, dataset: data.DataSet) -> dict[str, float]:
    """Return median distances to the nearest training example, in raw values.

    They are those of samples, of held-out data and of training data. A copy is a sample that is
    nearer than a quarter of what training examples are to each other. Samples that are not finite
    are left out.
    """
    run = loaded.run
    config = run.config
    real = real_images(dataset, config.eval.train_split, limit=COMPARED)
    held_out = real_images(dataset, config.eval.split, limit=COMPARED)
    name = "ddim" if "ddim" in config.samplers else config.sampling.sampler
    x = draw(run, loaded.denoiser, config.samplers[name], np.arange(SAMPLES)).x
    finite = np.isfinite(x).reshape(SAMPLES, -1).all(1)
    fake = run.facts.codec.decode(x[finite])
    samples = metrics.nearest_distances(fake, real) if finite.any() else np.zeros(0)
    training = float(np.median(metrics.nearest_distances(real)))
    return {
        "samples": float(np.median(samples)) if finite.any() else np.nan,
        "held_out": float(np.median(metrics.nearest_distances(held_out, real))),
        "training": training,
        "copies": float(np.mean(samples < 0.25 * training)) if finite.any() else 0.0,
        "finite": bool(finite.all()),
    }
