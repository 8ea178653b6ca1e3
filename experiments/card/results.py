"""What was measured of a run: samples, likelihoods, health, fits, restorations."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import config_of, of_which_weights, present, read_result, results_of
from .tables import UNKNOWN, number, table, with_error

PICTURES = 3  # of samples that are shown; the others are linked


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
