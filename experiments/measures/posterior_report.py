"""Is it the posterior? One picture and a few numbers."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from .calibration import Coverage, RankHistogram, coverage, rank_histogram, ranks


class PosteriorReport(NamedTuple):
    """What `posterior_report` returns."""

    figure: Figure
    numbers: dict[str, Any]  # strict JSON


def posterior_report(
    samples, truths, exact=None, coordinates=(0, 1, 2), false_alarm: float = 0.01
) -> PosteriorReport:
    """Draw coverage, ranks and a few marginals of posterior samples.

    Args:
        samples: (n, m, d), of n problems.
        truths: (n, d).
        exact: samples (k, d) of the exact posterior of the first problem, drawn beside its own.
        coordinates: whose marginals are drawn; those beyond d are left out.
        false_alarm: probability that any rank count leaves its band by chance.

    Raises:
        ValueError: as for `coverage` and `rank_histogram`.
    """
    samples, truths = np.asarray(samples), np.asarray(truths)
    covered = coverage(samples, truths)
    histogram = rank_histogram(ranks(samples, truths), samples.shape[1], false_alarm=false_alarm)
    chosen = [i for i in coordinates if i < truths.shape[1]]
    figure = Figure(figsize=(4 * (2 + len(chosen)), 3.5), layout="constrained")
    panels = figure.subplots(1, 2 + len(chosen))
    _draw_coverage(panels[0], covered)
    _draw_ranks(panels[1], histogram)
    for panel, i in zip(panels[2:], chosen, strict=True):
        panel.hist(samples[0, :, i], bins=30, density=True, alpha=0.6, label="samples")
        if exact is not None:
            exact_column = np.asarray(exact)[:, i]
            panel.hist(exact_column, bins=30, density=True, histtype="step", label="exact")
        panel.axvline(truths[0, i], color="black", label="truth")
        panel.set_title(f"coordinate {i} of the first problem", fontsize=10)
        panel.legend(fontsize=8)
    outside = (histogram.counts < histogram.low) | (histogram.counts > histogram.high)
    numbers = {
        "problems": len(truths),
        "levels": covered.levels.tolist(),
        "coverage": covered.value.tolist(),
        "coverage_std_error": covered.std_error.tolist(),
        "rank_p_value": histogram.p_value,
        "rank_counts_outside": int(outside.sum()),
        "false_alarm": histogram.false_alarm,
    }
    return PosteriorReport(figure=figure, numbers=numbers)


def _draw_coverage(axes: Any, covered: Coverage) -> None:
    """Draw the coverage with two standard errors."""
    axes.plot([0, 1], [0, 1], color="grey", ls="--", lw=1)
    low = covered.value - 2 * covered.std_error
    axes.fill_between(covered.levels, low, low + 4 * covered.std_error, alpha=0.3)
    axes.plot(covered.levels, covered.value, marker="o", ms=3)
    axes.set(xlabel="level of the interval", ylabel="truths inside")


def _draw_ranks(axes: Any, histogram: RankHistogram) -> None:
    """Draw the ranks of every coordinate, and the band."""
    places = np.arange(len(histogram.expected))
    axes.fill_between(places, histogram.low, histogram.high, color="0.85", step="mid")
    for counts in histogram.counts:
        axes.step(places, counts, where="mid", lw=1)
    axes.set(xlabel="bin of the rank", ylabel="truths")
    rate = histogram.false_alarm
    axes.set_title(f"band left by chance with probability {rate:g} at most", fontsize=10)
