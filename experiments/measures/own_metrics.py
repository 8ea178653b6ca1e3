"""Measurements of one's own in an evaluation.

They are given as `evaluate(loaded, workdir, metrics={"name": function})`.

A metric is any function (samples, real) -> number of two arrays (number, *shape) in raw values:
grey levels, or numbers as the data set has them. It is taken of each sampler's samples against the
training data and against held-out data, and, as what it can reach at best, of held-out against
training data::

    def distance_of_means(samples, real):
        return abs(samples.mean() - real.mean())

    evaluate(experiments.load("runs/digits"), Path("runs/digits"), metrics={"mean": distance_of_means})
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import RunError

Metric = Callable[[np.ndarray, np.ndarray], float]


def check_metrics(metrics: Any) -> None:
    """Raise a ValueError unless these are functions by name, before anything is drawn for them."""
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) and callable(metric) for name, metric in metrics.items()
    ):
        raise ValueError(
            "metrics are functions (samples, real) -> number by name, such as "
            f"{{'mean': distance_of_means}}, got {metrics!r}"
        )


def values_of(
    metrics: Mapping[str, Metric], samples: np.ndarray, real: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return each metric of `samples` against each of the sets `real`.

    Raises:
        RunError: a metric failed, or what it returned is no number.
    """
    values: dict[str, dict[str, float]] = {}
    for name, metric in metrics.items():
        values[name] = {}
        for against, examples in real.items():
            try:
                values[name][against] = float(metric(samples, examples))
            except Exception as error:  # whatever a user's function raises
                raise RunError(
                    f"the metric {name!r} failed on samples of shape {samples.shape} and {against} "
                    f"data of shape {examples.shape} ({type(error).__name__}: {error}). The "
                    "samples are kept: with the metric mended, evaluate again"
                ) from error
    return values


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Say what was measured, a line for each metric and sampler."""
    rows = [*report["samplers"].items(), ("real data", report.get("floor", {}))]
    return [
        f"{metric}, {name}: "
        + ", ".join(f"{value:.4g} against {against} data" for against, value in values.items())
        for name, row in rows
        for metric, values in row.get("metrics", {}).items()
    ]
