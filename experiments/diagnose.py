"""`--mode=diagnose`: a health report of a trained score, as one picture, `diagnose/report.png`, with its numbers in `report.json`.

A check fails where a number leaves what a sound model has by more than four of its standard errors, and by more than what training leaves.
"""

from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from sde_lib import LogUniform

from . import checkpoint, data, metrics
from .build import Loaded, make_dataset
from .devices import make_mesh, replicated
from .health import at_level, fokker_planck, linear_denoiser, ratio
from .messages import say, say_next
from .pde import score_error
from .sample import draw
from .state import init_state
from .writing import write_json

LEVELS, EXAMPLES, POINTS, SAMPLES = 12, 256, 64, 128


class Check(NamedTuple):
    """One finding: what was looked at, whether it is as it should be, and the number that says so."""

    name: str
    good: bool
    finding: str


def diagnose(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    """Run `--mode=diagnose`; return what is written."""
    run, dataset = loaded.run, make_dataset(loaded.run.config)
    split = run.config.eval.split
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
        "checkpoint": loaded.step,
        "split": split,
        "healthy": all(check.good for check in checks),
        "checks": [check._asdict() for check in checks],
        "curves": {
            name: [float(v) if np.isfinite(v) else None for v in values]
            for name, values in curves.items()
        },
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
    state = jax.eval_shape(
        lambda params: init_state(jax.random.key(0), params, loaded.run.tx), loaded.run.parameters()
    )
    template = checkpoint.template_of(state, replicated(make_mesh(1, 1)))
    return loaded.run.denoiser(checkpoint.restore(workdir, template, loaded.step).state.params)


def measure(loaded: Loaded, dataset: data.DataSet, batch: dict, raw: Any) -> dict[str, np.ndarray]:
    """Return the curves of `health` over noise levels equally spaced in log-SNR, with their standard errors."""
    sde, key = loaded.sde, jax.random.key(1)
    cond = batch["label"] if loaded.run.config.train.conditional else None
    t = LogUniform(log_snr_min=-10.0).quantile(sde, (jnp.arange(LEVELS) + 0.5) / LEVELS)
    source, width = (
        dataset.source(loaded.run.config.eval.train_split),
        0 if dataset.levels is None else 1,
    )
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), 10_000)).astype(int))
    known = data.scale(np.stack([source[row]["x"] for row in rows]) + width / 2, dataset.levels)
    linear = linear_denoiser(
        known, 0.0 if dataset.levels is None else (2 / dataset.levels) ** 2 / 12
    )

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
    curves = {"t": np.asarray(t), "level": np.exp(-0.5 * np.asarray(sde.log_snr(t)))}
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
        curves["pde"] = score_error(loaded.denoiser, sde, known.astype(np.float64), np.asarray(t))
    return curves


def memorisation(loaded: Loaded, dataset: data.DataSet) -> dict[str, float]:
    """Return median distances to the nearest training example: of samples, and of held-out data, in raw values."""
    run, config = loaded.run, loaded.run.config
    real, held_out = (
        np.stack([source[i]["x"] for i in range(min(len(source), 5000))])
        .reshape(-1, int(np.prod(run.facts.shape)))
        .astype(np.float64)
        for source in (dataset.source(config.eval.train_split), dataset.source(config.eval.split))
    )
    name = "ddim" if "ddim" in config.samplers else config.sampling.sampler
    drawn = draw(run, loaded.denoiser, config.samplers[name], np.arange(SAMPLES)).x
    fake = (
        data.unscale(np.nan_to_num(drawn), run.facts.levels).reshape(SAMPLES, -1).astype(np.float64)
    )
    samples, others = (
        metrics.nearest_distances(fake, real),
        metrics.nearest_distances(real[: len(held_out)]),
    )
    return {
        "samples": float(np.median(samples)),
        "held_out": float(np.median(metrics.nearest_distances(held_out, real))),
        "training": float(np.median(others)),
        "copies": float(np.mean(samples < 0.25 * np.median(others))),
        "finite": bool(np.isfinite(drawn).all()),
    }


def judge(curves: dict[str, np.ndarray], memory: dict[str, float]) -> list[Check]:
    """Return the findings; bounds are what a short training of a small network meets, not what is perfect."""

    def worst(name, low, high, text, where=None):
        value, error = curves[name], curves.get(f"{name}_error", np.zeros_like(curves[name]))
        where = np.ones(len(value), bool) if where is None else where
        above = np.maximum(value - 4 * error - high, low - value - 4 * error)
        above = np.where(
            where & np.isfinite(value), above, np.where(np.isfinite(value), -np.inf, np.inf)
        )
        i = int(np.argmax(above))
        return Check(
            text,
            bool(above[i] <= 0),
            f"{value[i]:.3g} ± {error[i]:.2g} at sigma/alpha = {curves['level'][i]:.3g}, allowed {bounds(low, high)}",
        )

    def bounds(low, high):
        return f"{low:g} to {high:g}" if np.isfinite(low) else f"up to {high:g}"

    informed = (curves["linear"] > 0.01) & (
        curves["linear"] < 0.95
    )  # elsewhere every denoiser knows all, or nothing
    nearest = memory["samples"] / max(memory["training"], 1e-12)
    return [
        worst("over_linear", -np.inf, 1.05, "loss over that of the best linear denoiser", informed),
        worst(
            "over_raw",
            -np.inf,
            1.1,
            "loss of the averaged weights over that of the raw ones",
            informed,
        ),
        worst("slope", 0.8, 1.25, "slope of the noise on its estimate", informed),
        worst("calibration", 0.8, 1.5, "error over the error that the denoiser predicts", informed),
        worst("asymmetry", -np.inf, 0.3, "asymmetry of the Jacobian", informed),
        worst("fokker_planck", -np.inf, 1.0, "residual of the Fokker-Planck equation", informed),
        Check(
            "distance of samples to the training set",
            bool(memory["finite"] and nearest > 0.5 and memory["copies"] < 0.1),
            f"{nearest:.2f} times that of training examples to each other, {100 * memory['copies']:.0f} % copies"
            + ("" if memory["finite"] else "; samples are not finite"),
        ),
    ]


def show(
    curves: dict[str, np.ndarray],
    memory: dict[str, float],
    checks: list[Check],
    title: str,
    path: Path,
) -> None:
    """Draw the report."""
    figure = Figure(figsize=(13, 8), dpi=100)
    axes = figure.subplots(2, 3)
    level = curves["level"]

    def panel(axis, text, names, target=None, log=False):
        for name, label in names.items():
            axis.errorbar(
                level,
                curves[name],
                2 * curves.get(f"{name}_error", 0 * level),
                label=label,
                marker="o",
                ms=3,
            )
        if target is not None:
            axis.axhline(target, color="grey", lw=1, ls="--")
        axis.set(xscale="log", xlabel="sigma / alpha", yscale="log" if log else "linear")
        axis.set_title(text, fontsize=10)
        axis.legend(fontsize=8)

    panel(
        axes[0, 0],
        "error of the noise estimate",
        {
            "loss": "network",
            "raw": "raw weights",
            "linear": "best linear",
            "predicted": "predicted",
        },
    )
    panel(
        axes[0, 1],
        "loss over ... (healthy: at most 1)",
        {"over_linear": "best linear", "over_raw": "raw weights"},
        1.0,
    )
    panel(
        axes[0, 2],
        "calibration (healthy: 1)",
        {"slope": "slope", "calibration": "error / predicted"},
        1.0,
    )
    axes[0, 2].set_ylim(0, 2)  # at high noise the predicted error is a difference of ones
    panel(
        axes[1, 0], "asymmetry of the Jacobian (healthy: 0)", {"asymmetry": "|J - J'|^2 share"}, 0.0
    )
    solved = (
        {"pde": "distance from a numerical solution"} if "pde" in curves else {}
    )  # in one or two dimensions
    panel(
        axes[1, 1],
        "Fokker-Planck residual / rate (healthy: 0)",
        {"fokker_planck": "score"} | solved,
        0.0,
    )
    axes[1, 2].bar(
        ["samples", "training", "held out"],
        [memory[k] for k in ("samples", "training", "held_out")],
    )
    axes[1, 2].set_title("median distance to the nearest training example", fontsize=10)
    failed = [check for check in checks if not check.good]
    verdict = (
        "healthy" if not failed else "NOT healthy: " + "; ".join(check.name for check in failed)
    )
    figure.suptitle(
        f"{title}: {verdict}",
        fontsize=12,
        color="darkgreen" if not failed else "darkred",
        wrap=True,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
