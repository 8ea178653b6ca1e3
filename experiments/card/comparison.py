"""How samples compare with real data: the tables of `evaluation.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import of_which_weights, read_result
from .tables import number, scalars, table

# What the numbers of an evaluation are called, with their units.
NAMES: dict[tuple[str, ...], str] = {
    ("nfe",): "network evaluations a sample",
    ("seconds",): "time for all samples, s",
    ("compile_seconds",): "of it compiling, s",
    ("one_nn_train",): "1-NN accuracy, training data (0.5: the same)",
    ("one_nn_held_out",): "1-NN accuracy, held-out data (0.5: the same)",
    ("frechet_train",): "squared Frechet distance of pooled pixels, training data",
    ("frechet_held_out",): "squared Frechet distance of pooled pixels, held-out data",
    ("nearest_train_median",): "median distance to the nearest training example, raw values",
    ("copies",): "exact copies of training examples",
    ("memorised",): "share of samples that are copies, by their pixels",
    ("memorised", "samples"): "samples that were looked at for it",
    ("memorised", "copies"): "exact copies among these",
    ("memorised", "threshold"): "a copy's distance is less than this part of the second nearest",
    ("features", "images"): "in features: images",
    ("features", "frechet_train"): "in features: Frechet distance, training data",
    ("features", "frechet_train", "infinite"): "in features: the same of infinitely many samples",
    ("features", "frechet_held_out"): "in features: Frechet distance, held-out data",
    ("features", "kernel_train"): "in features: kernel distance (KID), training data",
    ("features", "precision"): "in features: precision",
    ("features", "recall"): "in features: recall",
    ("features", "density"): "in features: density",
    ("features", "coverage"): "in features: coverage",
    ("features", "k"): "in features: neighbour that the last four reach to",
    ("features", "memorised"): "in features: share of samples that are copies",
    ("features", "inception_score"): "in features: inception score",
    ("features", "inception_score", "spread"): "in features: its standard deviation over parts",
    ("features", "inception_score", "splits"): "in features: parts",
    ("features", "accuracy"): "in features: share of the class that was asked for",
}
# How the rows of an evaluation begin that belong to the check of memorisation.
MEMORISATION = ("nearest", "copies", "memori")
REAL = "real data"


def evaluation(workdir: Path) -> list[str]:
    """Return the tables of `evaluation.json`: every number of every sampler beside real data."""
    report = read_result(workdir, "evaluation.json", "evaluate")
    if report is None:
        return ["Not measured yet: `--mode=evaluate`."]
    rows = {keys: row for keys, row in _rows(report).items() if not is_memorisation(keys)}
    if not rows:
        return ["The evaluation compared no samples: `config.eval.samplers` is empty."]
    lines = [f"Measured {of_which_weights(workdir, report)}."]
    if isinstance(report.get("features"), dict):
        lines[0] += f" The features are those of `{report['features'].get('extractor')}`."
    lines += ["", *_as_table(report, rows)]
    if (workdir / "evaluation.png").exists():
        lines += ["", "![images of each sampler beside real ones](evaluation.png)"]
    if isinstance(report.get("latency"), list):
        lines += ["", "Latency:", "", *_latency(report["latency"])]
    return lines


def is_memorisation(keys: tuple[str, ...]) -> bool:
    """Tell whether a number of an evaluation belongs to the check of memorisation."""
    return any(key.startswith(MEMORISATION) for key in keys)


def memorised(report: Mapping[str, Any]) -> list[str]:
    """Return the table of those numbers of an evaluation that tell copies."""
    rows = {keys: row for keys, row in _rows(report).items() if is_memorisation(keys)}
    return _as_table(report, rows) if rows else []


def _columns(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what was measured by column: each sampler, and real data last."""
    columns = dict(report.get("samplers") or {})
    if columns and isinstance(report.get("floor"), dict):
        columns[REAL] = report["floor"]
    return columns


def _rows(report: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the text of every number, by the keys that lead to it and by column."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for column, values in _columns(report).items():
        numbers = {key: value for key, value in values.items() if key != "guidance"}
        for keys, text in scalars(numbers).items():
            rows.setdefault(keys, {})[column] = text
    return rows


def _as_table(
    report: Mapping[str, Any], rows: Mapping[tuple[str, ...], Mapping[str, str]]
) -> list[str]:
    columns = list(_columns(report))
    header = ("", *(column if column == REAL else f"`{column}`" for column in columns))
    return table(
        header, [(_name(keys), *(row.get(c, "") for c in columns)) for keys, row in rows.items()]
    )


def _name(keys: tuple[str, ...]) -> str:
    """Return what a number is called."""
    return NAMES.get(keys) or ", ".join(key.replace("_", " ") for key in keys)


def _latency(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of seconds of an image, by evaluations and batch size."""
    cells = [
        (number(row["nfe"]), number(row["batch"]), f"{row['seconds_per_image'] * 1e3:.2f}")
        for row in rows
    ]
    return table(("network evaluations", "batch", "ms an image"), cells)
