"""Evaluating a run: bits per dimension of held-out data, and how samples compare with real data.

Writes `evaluation.json` and prints it; `evaluation.png` shows images of each sampler.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from .. import data
from ..card.page import update_card
from ..errors import RunError
from ..measures import latency, metrics
from ..measures.images.extractor import Extractor
from ..measures.images.scores import score_table
from ..measures.own_metrics import Metric, check_metrics, report_lines, values_of
from ..run.build import make_dataset
from ..run.conditions import named_conditions
from ..run.loading import Loaded
from ..run.messages import say, say_next
from ..storage.identity import identity
from ..storage.lock import ROOM, locked
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json
from .dequantise import restore_dequantiser
from .image_evaluation import (
    PICTURE,
    SHOWN,
    FeatureComparison,
    compare_features,
    draw_rows,
    memorised_pixels,
)
from .likelihood import measure_likelihood, sentence
from .sample import check_can_draw, draw_many


def evaluate(
    loaded: Loaded,
    workdir: Path,
    metrics: Mapping[str, Metric] | None = None,
    extractor: Extractor | None = None,
) -> dict[str, Any]:
    """Run `--mode=evaluate`; return what is written.

    Args:
        loaded: the run.
        workdir: its directory.
        metrics: functions of the caller's own by name, see `own_metrics`.
        extractor: what images are compared in beside pixels; None: as `config.eval.features` says.

    Raises:
        RunError: a split has too few images, a metric failed, or samples are not finite.
    """
    check_metrics(metrics or {})
    with locked(workdir, "evaluate", room=ROOM):
        report = _evaluate(loaded, workdir, metrics, extractor)
        write_json(workdir / "evaluation.json", report)
    update_card(workdir)
    say("\n".join([as_markdown(report), *report_lines(report)]))
    where = f"; the samples are in {workdir / 'samples'}" if report["samplers"] else ""
    say(f"see {workdir / 'evaluation.json'}{where}")
    say_next(workdir, "diagnose")
    return report


def _evaluate(
    loaded: Loaded,
    workdir: Path,
    metrics: Mapping[str, Metric] | None,
    extractor: Extractor | None,
) -> dict[str, Any]:
    config = loaded.run.config
    for name in config.eval.samplers:
        check_plain_name("the name of a sampler", name)
    if config.eval.samplers:
        check_can_draw(loaded)
    dataset = make_dataset(config)
    real = _real_data(loaded, workdir, dataset, extractor) if config.eval.samplers else None
    redraw = restore_dequantiser(loaded, workdir) if config.eval.dequantise else None
    bits = measure_likelihood(loaded, dataset, redraw=redraw)
    report = identity(loaded) | {"likelihood": bits, "samplers": {}}
    if real:
        report["floor"] = _floor(real, config, metrics)
        shown = {}
        for name in config.eval.samplers:
            job = draw_many(loaded, name, config.eval.number, workdir / "samples" / name)
            fake = job.x
            cost = {
                "samples": len(fake),
                "guidance": job.guidance,
                "nfe": job.nfe,
                "seconds": job.seconds,
                "compile_seconds": job.compile_seconds,
            }
            scores = _scores(loaded, workdir / "samples" / name, fake, real, metrics)
            report["samplers"][name] = cost | scores
            shown[f"{name}, NFE {job.nfe}"] = fake[:SHOWN]
        draw_rows(workdir / PICTURE, shown | {"real": real.held_out[:SHOWN]}, dataset.codec)
    if real and real.features:
        report["features"] = {
            "extractor": real.features.extractor.name,
            "preprocessing": real.features.extractor.preprocessing,
        }
    if config.eval.latency:
        report["latency"] = latency.measure_latency(loaded)
    return report


class _RealData(NamedTuple):
    """What samples are compared with."""

    dataset: data.DataSet
    training: np.ndarray  # raw values
    held_out: np.ndarray  # raw values
    features: FeatureComparison | None


def _real_data(
    loaded: Loaded, workdir: Path, dataset: data.DataSet, extractor: Extractor | None
) -> _RealData:
    """Return what samples are compared with; raise a RunError if there is too little of it."""
    config = loaded.run.config
    if config.eval.number < 2:
        raise RunError(
            "samplers are compared by two or more samples, but config.eval.number is "
            f"{config.eval.number}; raise it"
        )
    return _RealData(
        dataset=dataset,
        training=real_images(dataset, config.eval.train_split, least=4),  # the floor halves it
        held_out=real_images(dataset, config.eval.split),
        features=compare_features(config, workdir, dataset, extractor),
    )


def _floor(
    real: _RealData, config: ConfigDict, metrics: Mapping[str, Metric] | None
) -> dict[str, Any]:
    """Return what real data score beside real data."""
    scores = floor(real.training, real.held_out)
    if real.features:
        scores["features"] = real.features.floor(config.eval.number)
    if metrics:
        scores["metrics"] = values_of(metrics, real.held_out, {"training": real.training})
    return scores


def _scores(
    loaded: Loaded,
    folder: Path,
    fake: np.ndarray,
    real: _RealData,
    metrics: Mapping[str, Metric] | None,
) -> dict[str, Any]:
    """Return how the raw samples in a folder compare with real data."""
    scores = compare(fake, real.training, real.held_out)
    if fake.ndim == 4:
        split = loaded.run.config.eval.train_split
        scores["memorised"] = memorised_pixels(fake, real.dataset, split, folder)
    if real.features:
        labels = named_conditions(loaded.run, np.arange(len(fake))).get("label")
        scores["features"] = real.features.scores(fake, labels)
    if metrics:
        against = {"training": real.training, "held-out": real.held_out}
        scores["metrics"] = values_of(metrics, fake, against)
    return scores


def compare(fake: np.ndarray, real: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return two-sample scores of samples against training and held-out data, in raw values."""
    nearest = metrics.nearest_distances(fake, real)
    return {
        "one_nn_train": _one_nn(fake, real),
        "one_nn_held_out": _one_nn(fake, held_out),
        "frechet_train": _frechet(fake, real),
        "frechet_held_out": _frechet(fake, held_out),
        "nearest_train_median": float(np.median(nearest)),
        "copies": int((nearest == 0).sum()),
    }


def floor(real: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return the same scores of real data against real data, which samples can reach at best.

    Two halves of the training set stand for samples and training data, and the training set for
    samples beside the held-out data.
    """
    order = np.random.default_rng(0).permutation(len(real))
    middle = len(real) // 2
    half = real[order[:middle]]
    other_half = real[order[middle : 2 * middle]]
    some = real[order[: min(len(real), len(held_out))]]
    return {
        "one_nn_train": _one_nn(half, other_half),
        "one_nn_held_out": _one_nn(some, held_out),
        "frechet_train": _frechet(half, other_half),
        "frechet_held_out": _frechet(real, held_out),
        "nearest_train_median": float(np.median(metrics.nearest_distances(real))),
    }


def _one_nn(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return the nearest-neighbour accuracy of the first points of two sets, as many of each."""
    number = min(len(a), len(b))
    return metrics.nearest_neighbour_accuracy(a[:number], b[:number])._asdict()


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of two sets in the space of pooled pixels."""
    return metrics.frechet_distance(metrics.pooled_pixels(a), metrics.pooled_pixels(b))


def as_markdown(report: dict[str, Any]) -> str:
    """Return a line on the likelihood of an evaluation, and its scores as Markdown tables."""
    line = sentence(report["likelihood"])
    text = line
    if report["samplers"]:
        text = "\n".join([line, "", *_score_lines(report), *_feature_lines(report)])
    if "latency" in report:
        text += "\n\nlatency of an image\n\n" + latency.as_markdown(report["latency"])
    return text


def _score_lines(report: dict[str, Any]) -> list[str]:
    """Return the Markdown table of the scores of each sampler, real data last."""
    lines = [
        "| sampler | NFE | seconds | 1-NN, train | 1-NN, held out | Frechet, train "
        "| Frechet, held out | nearest train |",
        "|" + "---|" * 8,
    ]
    rows = dict(report["samplers"])
    if "floor" in report:
        rows["real data"] = {"nfe": "", "seconds": ""} | report["floor"]
    for name, row in rows.items():
        accuracies = " | ".join(
            f"{row[key]['value']:.3f} ± {row[key]['std_error']:.3f}"
            for key in ("one_nn_train", "one_nn_held_out")
        )
        distances = " | ".join(
            f"{row[key]:.2f}"
            for key in ("frechet_train", "frechet_held_out", "nearest_train_median")
        )
        seconds = f"{row['seconds']:.1f}" if row["seconds"] != "" else ""
        lines.append(f"| {name} | {row['nfe']} | {seconds} | {accuracies} | {distances} |")
    return lines


def _feature_lines(report: dict[str, Any]) -> list[str]:
    """Return what was measured in features, as a Markdown table; nothing where nothing was."""
    if "features" not in report:
        return []
    rows = {name: row["features"] for name, row in report["samplers"].items()}
    rows["real data"] = report["floor"]["features"]
    return ["", f"in features of {report['features']['extractor']}:", "", *score_table(rows)]


def real_images(
    dataset: data.DataSet, split: str, limit: int = 10_000, least: int = 2
) -> np.ndarray:
    """Return the first `limit` images of a split, or all, in raw values as they are stored.

    Raises:
        RunError: there are fewer than `least`.
    """
    size = len(dataset.source(split))
    if size < least:
        needed = {2: "two", 4: "four"}[least]
        raise RunError(
            f"samples are compared with {needed} or more images, but split {split!r} has {size}; "
            "name a larger one in config.eval"
        )
    rows = np.arange(min(size, limit))
    return np.concatenate([block.x for block in data.blocks(dataset, split, rows)])
