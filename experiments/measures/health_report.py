"""The findings of a health report, and its picture.

Only the levels are judged at which the best linear denoiser knows something, and not all, of the noise; the others are drawn hollow.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure


class Check(NamedTuple):
    """One finding: what was looked at, whether it is as it should be, and the number that says so."""

    name: str
    good: bool
    finding: str


def judge(curves: dict[str, np.ndarray], memory: dict[str, float]) -> list[Check]:
    """Return the findings; bounds are what a short training of a small network meets, not what is perfect."""

    judged = curves["judged"]

    def excess(name, low, high):
        """Return by how much a curve leaves its bounds at each level, its standard errors taken off."""
        value, error = curves[name], curves.get(f"{name}_error", np.zeros_like(curves[name]))
        above = np.maximum(value - 4 * error - high, low - value - 4 * error)
        return np.where(np.isfinite(value) & np.isfinite(error), above, np.inf)

    def told(name, i):
        error = curves.get(f"{name}_error", np.zeros_like(curves[name]))[i]
        return f"{curves[name][i]:.3g} ± {error:.2g} at sigma/alpha = {curves['level'][i]:.3g}"

    def worst(name, low, high, text):
        above = excess(name, low, high)
        if not judged.any():
            return Check(text, False, "no level is between all and no noise; nothing was judged")
        certain = judged | np.isinf(above)  # what is not finite is wrong at any level
        i = int(np.argmax(np.where(certain, above, -np.inf)))
        finding = f"{told(name, i)}, allowed {bounds(low, high)}"
        j = int(np.argmax(np.where(certain, -np.inf, above)))
        if not certain[j] and above[j] > 0:
            finding += f"; not judged, as almost all or nothing is noise there: {told(name, j)}"
        return Check(text, bool(above[i] <= 0), finding)

    def bounds(low, high):
        return f"{low:g} to {high:g}" if np.isfinite(low) else f"up to {high:g}"

    nearest = memory["samples"] / max(memory["training"], 1e-12)
    return [
        worst("over_linear", -np.inf, 1.05, "loss over that of the best linear denoiser"),
        worst(
            "over_raw",
            -np.inf,
            1.1,
            "loss of the averaged weights over that of the raw ones",
        ),
        worst("slope", 0.8, 1.25, "slope of the noise on its estimate"),
        worst("calibration", 0.8, 1.5, "error over the error that the denoiser predicts"),
        worst("asymmetry", -np.inf, 0.3, "asymmetry of the Jacobian"),
        worst("fokker_planck", -np.inf, 1.0, "residual of the Fokker-Planck equation"),
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
    level, judged = curves["level"], curves["judged"]

    def panel(axis, text, names, target=None, log=False):
        for name, label in names.items():
            error = 2 * curves.get(f"{name}_error", 0 * level)
            line = axis.errorbar(level, curves[name], error, label=label, marker="o", ms=3)[0]
            axis.plot(
                level[~judged],
                curves[name][~judged],
                marker="o",
                ms=5,
                ls="",
                mfc="white",
                mec=line.get_color(),
                zorder=3,
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
    figure.text(0.01, 0.005, "hollow: levels that are not judged", fontsize=8, color="grey")
    figure.suptitle(
        f"{title}: {verdict}",
        fontsize=12,
        color="darkgreen" if not failed else "darkred",
        wrap=True,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
