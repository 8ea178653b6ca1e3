"""What was measured of a run: samples, likelihoods, evaluation, health, fits, restorations."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import config_of, of_which_weights, present, read_result, results_of
from .tables import UNKNOWN, number, scalars, table, with_error

PICTURES = 3  # of samples that are shown; the others are linked
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


def pictures(workdir: Path) -> list[str]:
    """Return the pictures of samples, those of the configured sampler first."""
    first = config_of(workdir)["sampling"]["sampler"]
    grids = {path.parent.name: path for path in present(workdir, "samples/*/grid.png")}
    names = sorted(grids, key=lambda name: (name != first, name))
    if not names:
        return _training_pictures(workdir)
    lines = []
    for name in names[:PICTURES]:
        lines += [
            f"![samples by {name}](samples/{name}/grid.png)",
            "",
            _caption(workdir, name),
            "",
        ]
    if others := names[PICTURES:]:
        links = ", ".join(f"[{name}](samples/{name}/grid.png)" for name in others)
        lines.append(f"Samples by other samplers: {links}")
    return lines


def _caption(workdir: Path, name: str) -> str:
    """Say how the samples of a picture were drawn."""
    summary = read_result(workdir, f"samples/{name}/summary.json", "sample")
    if summary is None:
        return f"Samples by `{name}`."
    seconds = summary["seconds"]
    guidance = "" if not summary.get("guidance") else f", guided by {summary['guidance']['name']}"
    return (
        f"Samples by `{name}`{guidance}, drawn at random: {summary['nfe']} network evaluations "
        f"each, {summary['samples']:,} in {seconds:,.1f} s; {of_which_weights(workdir, summary)}."
    )


def _training_pictures(workdir: Path) -> list[str]:
    """Return the newest picture that training has drawn, or the command that draws one."""
    drawn = sorted(workdir.glob("samples/train_*.png"))
    if not drawn:
        return ["No samples have been drawn yet: `--mode=sample`."]
    name = drawn[-1].name
    return [f"![samples while training](samples/{name})", "", f"Drawn while training: `{name}`."]


def likelihood(workdir: Path) -> list[str]:
    """Return the table of bits per dimension of every split, with the parts of their errors."""
    summaries = results_of(workdir, "likelihood/*/summary.json", "likelihood")
    evaluation = read_result(workdir, "evaluation.json", "evaluate") or {}
    if isinstance(evaluation.get("likelihood"), dict):
        summaries["evaluation.json"] = evaluation["likelihood"]
    if not summaries:
        return ["Not measured yet: `--mode=likelihood`."]
    columns = {place: _likelihood_column(workdir, s) for place, s in summaries.items()}
    rows = list(dict.fromkeys(name for column in columns.values() for name in column))
    header = ("bits per dimension", *(f"`{place}`" for place in columns))
    lines = table(header, [(row, *(c.get(row, "") for c in columns.values())) for row in rows])
    return [
        *lines,
        "",
        "The three parts of the error are never added: that of the trace, of the solver (what a "
        "tenth of the tolerance changes), and of the prior.",
    ]


def _likelihood_column(workdir: Path, summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the rows of one measurement of the likelihood."""
    column = {
        "split": f"`{summary['split']}`, {summary['images']:,} examples",
        "by the flow, ± over examples": with_error(summary["bits_per_dim"], summary["std_error"]),
        "of it from the estimated trace": f"± {number(summary['probe_std_error'])}",
        "refinement of the solver": number(summary["refinement"]),
        "mismatch of the prior": number(summary["prior_mismatch"]),
    }
    if "bound" in summary:
        bound = with_error(summary["bound"], summary["bound_std_error"])
        column["variational bound, ± over examples"] = bound
    column |= {
        "network evaluations": number(summary["nfe"]),
        "time, s": number(summary["seconds"]),
        "weights": of_which_weights(workdir, dict(summary)),
    }
    return column


def evaluation(workdir: Path) -> list[str]:
    """Return the tables of `evaluation.json`: every number of every sampler beside real data."""
    report = read_result(workdir, "evaluation.json", "evaluate")
    if report is None:
        return ["Not measured yet: `--mode=evaluate`."]
    rows = {way: row for way, row in _rows(report).items() if not is_memorisation(way)}
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


def is_memorisation(way: tuple[str, ...]) -> bool:
    """Tell whether a number of an evaluation belongs to the check of memorisation."""
    return any(part.startswith(MEMORISATION) for part in way)


def memorised(report: Mapping[str, Any]) -> list[str]:
    """Return the table of those numbers of an evaluation that tell copies."""
    rows = {way: row for way, row in _rows(report).items() if is_memorisation(way)}
    return _as_table(report, rows) if rows else []


def _columns(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what was measured by column: each sampler, and real data last."""
    columns = dict(report.get("samplers") or {})
    if columns and isinstance(report.get("floor"), dict):
        columns[REAL] = report["floor"]
    return columns


def _rows(report: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the text of every number by its way, and by column."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for column, values in _columns(report).items():
        numbers = {key: value for key, value in values.items() if key != "guidance"}
        for way, text in scalars(numbers).items():
            rows.setdefault(way, {})[column] = text
    return rows


def _as_table(
    report: Mapping[str, Any], rows: Mapping[tuple[str, ...], Mapping[str, str]]
) -> list[str]:
    columns = list(_columns(report))
    header = ("", *(column if column == REAL else f"`{column}`" for column in columns))
    return table(
        header, [(_name(way), *(row.get(c, "") for c in columns)) for way, row in rows.items()]
    )


def _name(way: tuple[str, ...]) -> str:
    """Return what a number is called."""
    return NAMES.get(way) or ", ".join(part.replace("_", " ") for part in way)


def _latency(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of seconds of an image, by evaluations and batch size."""
    cells = [
        (number(row["nfe"]), number(row["batch"]), f"{row['seconds_per_image'] * 1e3:.2f}")
        for row in rows
    ]
    return table(("network evaluations", "batch", "ms an image"), cells)


def health(workdir: Path) -> list[str]:
    """Return the findings of the health report."""
    report = read_result(workdir, "diagnose/report.json", "diagnose")
    if report is None:
        return ["Not looked at yet: `--mode=diagnose`."]
    rows = [
        ("ok" if check["good"] else "**fails**", check["name"], check["finding"])
        for check in report["checks"]
    ]
    lines = [f"Measured {of_which_weights(workdir, report)}.", ""]
    lines += table(("", "what was looked at", "finding"), rows)
    if (workdir / "diagnose" / "report.png").exists():
        lines += ["", "![health report](diagnose/report.png)"]
    return lines


def fits(workdir: Path) -> list[str]:
    """Return the table of the solvers for few evaluations; it is empty without any."""
    rows = []
    for place, fit in results_of(workdir, "fits/*.json", "fit").items():
        quality = fit.get("quality") or {}
        rows.append(
            (
                f"`{Path(place).stem}`",
                number(quality.get("start")),
                number(quality.get("distance")),
                number(quality.get("seconds")),
                of_which_weights(workdir, fit["made_for"]),
            )
        )
    header = ("solver", "distance before", "distance after", "time, s", "weights")
    if not rows:
        return []
    return [
        "Median distance to the accurate ends of the probability flow, of held-out noises, in "
        "model values.",
        "",
        *table(header, rows),
    ]


def restorations(workdir: Path) -> list[str]:
    """Return the table of what was restored, and a picture of each; it is empty without any."""
    summaries = results_of(workdir, "restored/*/summary.json", "restore")
    rows = []
    lines = []
    for place, summary in summaries.items():
        method = Path(place).parent.name
        rows.append(
            (
                f"`{method}`",
                f"`{summary['operator']['name']}`, noise {number(summary['std'])}",
                f"{summary['observations']} x {summary['samples']}",
                _mean(summary.get("psnr")),
                _mean(summary.get("rmse")),
                number(summary["nfe"]),
                of_which_weights(workdir, summary),
            )
        )
        if (workdir / "restored" / method / "restored.png").exists():
            lines += ["", f"![restored by {method}](restored/{method}/restored.png)"]
    header = (
        "method",
        "measured by",
        "observations x samples",
        "PSNR of the mean, dB",
        "RMSE of the mean, model values",
        "network evaluations",
        "weights",
    )
    return [*table(header, rows), *lines] if rows else []


def _mean(values: Any) -> str:
    """Return the mean of numbers, and its standard error over them."""
    if not isinstance(values, list) or not values or None in values:
        return UNKNOWN if values is not None else ""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return number(mean)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return with_error(mean, math.sqrt(variance / len(values)))
