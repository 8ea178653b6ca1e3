"""The findings of a health report, and its picture.

Only the levels are judged at which the best linear denoiser knows something, and not all, of the
noise. The others are drawn hollow.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Curves = dict[str, np.ndarray]  # by name, (levels,); "NAME_error" is the standard error of "NAME"


class Check(NamedTuple):
    """One finding of a health report."""

    name: str  # what was looked at
    good: bool
    finding: str  # the number that says so, in words


class Bounds(NamedTuple):
    """What a curve may be at the levels that are judged."""

    curve: str
    text: str
    low: float
    high: float


# What a short training of a small network meets, not what is perfect.
BOUNDS = (
    Bounds("over_linear", "loss over that of the best linear denoiser", -np.inf, 1.05),
    Bounds("over_raw", "loss of the averaged weights over that of the raw ones", -np.inf, 1.1),
    Bounds("slope", "slope of the noise on its estimate", 0.8, 1.25),
    Bounds("calibration", "error over the error that the denoiser predicts", 0.8, 1.5),
    Bounds("asymmetry", "asymmetry of the Jacobian", -np.inf, 0.3),
    Bounds("fokker_planck", "residual of the Fokker-Planck equation", -np.inf, 1.0),
)


def judge(curves: Curves, memory: dict[str, float]) -> list[Check]:
    """Return a finding for each of `BOUNDS`, and one for how near samples are to training data.

    Args:
        curves: what `modes.diagnose` measures over the noise levels.
        memory: the distances to the training set, and whether all samples are finite.
    """
    return [_check(curves, bounds) for bounds in BOUNDS] + [_memory_check(memory)]


def _check(curves: Curves, bounds: Bounds) -> Check:
    """Return the finding about one curve: the level at which it is worst."""
    judged = curves["judged"]
    if not judged.any():
        return Check(
            name=bounds.text,
            good=False,
            finding="no level is between all and no noise; nothing was judged",
        )
    excess = _excess(curves, bounds)
    certain = judged | np.isinf(excess)  # what is not finite is wrong at any level
    worst = int(np.argmax(np.where(certain, excess, -np.inf)))
    allowed = f"{bounds.low:g} to {bounds.high:g}"
    if not np.isfinite(bounds.low):
        allowed = f"up to {bounds.high:g}"
    finding = f"{_value_at(curves, bounds.curve, worst)}, allowed {allowed}"
    other = int(np.argmax(np.where(certain, -np.inf, excess)))
    if not certain[other] and excess[other] > 0:
        value = _value_at(curves, bounds.curve, other)
        finding += f"; not judged, as almost all or nothing is noise there: {value}"
    return Check(name=bounds.text, good=bool(excess[worst] <= 0), finding=finding)


def _memory_check(memory: dict[str, float]) -> Check:
    """Return the finding about the distances of samples to the training set."""
    nearest = memory["samples"] / max(memory["training"], 1e-12)
    finding = (
        f"{nearest:.2f} times that of training examples to each other, "
        f"{100 * memory['copies']:.0f} % copies"
    )
    if not memory["finite"]:
        finding += "; samples are not finite"
    return Check(
        name="distance of samples to the training set",
        good=bool(memory["finite"] and nearest > 0.5 and memory["copies"] < 0.1),
        finding=finding,
    )


def _excess(curves: Curves, bounds: Bounds) -> np.ndarray:
    """Return by how much a curve leaves its bounds at each level, less four standard errors."""
    value = curves[bounds.curve]
    error = _standard_error(curves, bounds.curve)
    excess = np.maximum(value - 4 * error - bounds.high, bounds.low - value - 4 * error)
    return np.where(np.isfinite(value) & np.isfinite(error), excess, np.inf)


def _value_at(curves: Curves, name: str, i: int) -> str:
    """Return the value of a curve at level `i` in words."""
    error = _standard_error(curves, name)[i]
    return f"{curves[name][i]:.3g} ± {error:.2g} at sigma/alpha = {curves['level'][i]:.3g}"


def _standard_error(curves: Curves, name: str) -> np.ndarray:
    """Return the standard error of a curve at each level, 0 where it has none."""
    return curves.get(f"{name}_error", np.zeros_like(curves[name]))


def show(
    curves: Curves,
    memory: dict[str, float],
    checks: list[Check],
    title: str,
    path: Path,
) -> None:
    """Draw the report: five panels of curves over the noise level, one of distances, the verdict.

    `path`: the picture to write, such as report.png; its folder is made.
    """
    figure = Figure(figsize=(13, 8), dpi=100)
    axes = figure.subplots(2, 3)
    _draw_curves(axes, curves)
    axes[1, 2].bar(
        ["samples", "training", "held out"],
        [memory[k] for k in ("samples", "training", "held_out")],
    )
    axes[1, 2].set_title("median distance to the nearest training example", fontsize=10)
    failed = [check.name for check in checks if not check.good]
    verdict, color = "healthy", "darkgreen"
    if failed:
        verdict, color = "NOT healthy: " + "; ".join(failed), "darkred"
    figure.text(0.01, 0.005, "hollow: levels that are not judged", fontsize=8, color="grey")
    figure.suptitle(f"{title}: {verdict}", fontsize=12, color=color, wrap=True)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_curves(axes: np.ndarray, curves: Curves) -> None:
    """Draw the five panels of curves."""
    errors = {
        "loss": "network",
        "raw": "raw weights",
        "linear": "best linear",
        "predicted": "predicted",
    }
    over = {"over_linear": "best linear", "over_raw": "raw weights"}
    calibration = {"slope": "slope", "calibration": "error / predicted"}
    residuals = {"fokker_planck": "score"}
    if "pde" in curves:  # in one or two dimensions
        residuals["pde"] = "distance from a numerical solution"
    _panel(axes[0, 0], curves, "error of the noise estimate", errors)
    _panel(axes[0, 1], curves, "loss over ... (healthy: at most 1)", over, target=1.0)
    _panel(axes[0, 2], curves, "calibration (healthy: 1)", calibration, target=1.0)
    axes[0, 2].set_ylim(0, 2)  # at high noise the predicted error is a difference of ones
    _panel(
        axes[1, 0],
        curves,
        "asymmetry of the Jacobian (healthy: 0)",
        {"asymmetry": "|J - J'|^2 share"},
        target=0.0,
    )
    _panel(
        axes[1, 1],
        curves,
        "Fokker-Planck residual / rate (healthy: 0)",
        residuals,
        target=0.0,
    )


def _panel(
    axis: Axes, curves: Curves, title: str, labels: dict[str, str], target: float | None = None
) -> None:
    """Draw curves with two standard errors; `labels` names each, `target` is what they should be."""
    level = curves["level"]
    hollow = ~curves["judged"]
    for name, label in labels.items():
        error = 2 * curves.get(f"{name}_error", 0 * level)
        line = axis.errorbar(level, curves[name], error, label=label, marker="o", ms=3)[0]
        axis.plot(
            level[hollow],
            curves[name][hollow],
            marker="o",
            ms=5,
            ls="",
            mfc="white",
            mec=line.get_color(),
            zorder=3,
        )
    if target is not None:
        axis.axhline(target, color="grey", lw=1, ls="--")
    axis.set(xscale="log", xlabel="sigma / alpha", yscale="linear")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)
