"""Evaluating a run: bits per dimension of held-out data, and how samples compare with real data. Writes `evaluation.json` and prints it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..errors import RunError
from ..measures import latency, metrics
from ..measures.own_metrics import Metric, check_metrics, lines, measured
from ..run.build import make_dataset
from ..run.loading import Loaded
from ..run.messages import say, say_next
from ..storage.identity import identity
from ..storage.lock import locked
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json
from .dequantise import restore_dequantiser
from .likelihood import measure, sentence
from .sample import ROOM, draw_many


def evaluate(
    loaded: Loaded, workdir: Path, metrics: Mapping[str, Metric] | None = None
) -> dict[str, Any]:
    """Run `--mode=evaluate`; return what is written, with `metrics` of the caller's own, see `own_metrics`."""
    check_metrics(metrics or {})
    with locked(workdir, "evaluate", room=ROOM):
        report = _evaluate(loaded, workdir, metrics)
        write_json(workdir / "evaluation.json", report)
    say("\n".join([table(report), *lines(report)]))
    where = f"; the samples are in {workdir / 'samples'}" if report["samplers"] else ""
    say(f"see {workdir / 'evaluation.json'}{where}")
    say_next(workdir, "diagnose")
    return report


def _evaluate(
    loaded: Loaded, workdir: Path, metrics: Mapping[str, Metric] | None
) -> dict[str, Any]:
    config = loaded.run.config
    for name in config.eval.samplers:
        check_plain_name("the name of a sampler", name)
    dataset = make_dataset(config)
    images = []
    if config.eval.samplers:
        if config.eval.number < 2:
            raise RunError(
                f"samplers are compared by two or more samples, but config.eval.number is {config.eval.number}; raise it"
            )
        # the floor compares halves of the training split
        images = [
            real_images(dataset, config.eval.train_split, least=4),
            real_images(dataset, config.eval.split),
        ]
    redraw = restore_dequantiser(loaded, workdir) if config.eval.dequantise else None
    bits = measure(loaded, dataset, redraw=redraw)
    report = identity(loaded) | {"likelihood": bits, "samplers": {}}
    if images:
        real, held_out = images
        report["floor"] = floor(real, held_out)
        if metrics:
            report["floor"]["metrics"] = measured(metrics, held_out, {"training": real})
        for name in config.eval.samplers:
            drawing = draw_many(loaded, name, config.eval.number, workdir / "samples" / name)
            fake = loaded.run.facts.codec.decode(drawing.x)
            times = {
                "nfe": drawing.nfe,
                "seconds": drawing.seconds,
                "compile_seconds": drawing.compile_seconds,
            }
            report["samplers"][name] = times | compare(fake, real, held_out)
            if metrics:
                against = {"training": real, "held-out": held_out}
                report["samplers"][name]["metrics"] = measured(metrics, fake, against)
    if config.eval.latency:
        report["latency"] = latency.latency(loaded)
    return report


def compare(fake: np.ndarray, real: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return two-sample scores of samples against training and held-out data, in raw values."""
    a, b, c = fake, real, held_out
    n, m = min(len(a), len(b)), min(len(a), len(c))
    nearest = metrics.nearest_distances(a, b)
    return {
        "one_nn_train": metrics.nearest_neighbour_accuracy(a[:n], b[:n])._asdict(),
        "one_nn_held_out": metrics.nearest_neighbour_accuracy(a[:m], c[:m])._asdict(),
        "frechet_train": metrics.frechet_distance(
            metrics.pooled_pixels(fake), metrics.pooled_pixels(real)
        ),
        "frechet_held_out": metrics.frechet_distance(
            metrics.pooled_pixels(fake), metrics.pooled_pixels(held_out)
        ),
        "nearest_train_median": float(np.median(nearest)),
        "copies": int((nearest == 0).sum()),
    }


def floor(real: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return the same scores of real data against real data: halves of the training set, and training against held-out."""
    order = np.random.default_rng(0).permutation(len(real))
    halves = real[order[: len(real) // 2]], real[order[len(real) // 2 : len(real) // 2 * 2]]
    (a, b), c, r = halves, held_out, real
    m = min(len(r), len(c))
    return {
        "one_nn_train": metrics.nearest_neighbour_accuracy(a, b)._asdict(),
        "one_nn_held_out": metrics.nearest_neighbour_accuracy(r[order[:m]], c[:m])._asdict(),
        "frechet_train": metrics.frechet_distance(*(metrics.pooled_pixels(h) for h in halves)),
        "frechet_held_out": metrics.frechet_distance(
            metrics.pooled_pixels(real), metrics.pooled_pixels(held_out)
        ),
        "nearest_train_median": float(np.median(metrics.nearest_distances(r))),
    }


def table(report: dict[str, Any]) -> str:
    """Format an evaluation as a Markdown table with a line on the likelihood."""
    head = "| sampler | NFE | seconds | 1-NN, train | 1-NN, held out | Frechet, train | Frechet, held out | nearest train |"
    lines = [head, "|" + "---|" * 8]
    rows = (
        [("real data", {"nfe": "", "seconds": ""} | report["floor"])] if "floor" in report else []
    )
    for name, row in [*report["samplers"].items(), *rows]:
        scores = " | ".join(
            f"{row[k]['value']:.3f} ± {row[k]['std_error']:.3f}"
            for k in ("one_nn_train", "one_nn_held_out")
        )
        distances = " | ".join(
            f"{row[k]:.2f}" for k in ("frechet_train", "frechet_held_out", "nearest_train_median")
        )
        seconds = f"{row['seconds']:.1f}" if row["seconds"] != "" else ""
        lines.append(f"| {name} | {row['nfe']} | {seconds} | {scores} | {distances} |")
    line = sentence(report["likelihood"])
    text = "\n".join([line, "", *lines] if report["samplers"] else [line])
    return (
        text + "\n\nlatency of an image\n\n" + latency.table(report["latency"])
        if "latency" in report
        else text
    )


def real_images(
    dataset: data.DataSet, split: str, limit: int = 10_000, least: int = 2
) -> np.ndarray:
    """Return the images of a split, the first ones of a large one, in raw values as they are stored.

    Raises:
        RunError: there are fewer than `least`.
    """
    size = len(dataset.source(split))
    if size < least:
        needed = {2: "two", 4: "four"}[least]
        raise RunError(
            f"samples are compared with {needed} or more images, but split {split!r} has {size}; name a larger one in config.eval"
        )
    rows = np.arange(min(size, limit))
    return np.concatenate([block.x for block in data.blocks(dataset, split, rows)])
