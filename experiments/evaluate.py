"""Evaluating a run: bits per dimension of held-out data, and how samples compare with real data. Writes `evaluation.json` and prints it."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samplers import log_likelihood

from . import data, metrics
from .build import Loaded, make_dataset
from .devices import fitting_mesh, replicate, share
from .errors import RunError
from .log import progress
from .sample import draw_many
from .writing import write_json


def evaluate(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    """Run `--mode=evaluate`; return what is written."""
    config = loaded.run.config
    dataset = make_dataset(config)
    report = {"checkpoint": loaded.step, "likelihood": likelihood(loaded, dataset), "samplers": {}}
    if config.eval.samplers:
        real, held_out = (_real(dataset, split) for split in (config.eval.train_split, config.eval.split))
        report["floor"] = floor(real, held_out)
        for name in config.eval.samplers:
            drawing = draw_many(loaded, name, config.eval.number, workdir / "samples" / name)
            fake = data.unscale(drawing.x, loaded.run.facts.levels)
            times = {"nfe": drawing.nfe, "seconds": drawing.seconds, "compile_seconds": drawing.compile_seconds}
            report["samplers"][name] = times | compare(fake, real, held_out)
    write_json(workdir / "evaluation.json", report)
    print(table(report))
    return report


def likelihood(loaded: Loaded, dataset: data.DataSet) -> dict[str, float]:
    """Return bits/dim of the held-out split: mean, standard error over images, that of the trace estimate, refinement difference.

    The refinement difference repeats the solve, with the same probes, at a tenth of the tolerance.
    """
    run, settings = loaded.run, loaded.run.config.eval
    source, dim = dataset.source(settings.split), int(np.prod(run.facts.shape))
    size = min(settings.batch_size, len(source))
    mesh, start = fitting_mesh(size, run.config.devices), time.perf_counter()
    denoiser = replicate(mesh, loaded.denoiser)
    coarse, fine, errors, nfe = [], [], [], []
    with progress(len(source), "likelihood", unit="image") as bar:
        for number, batch in enumerate(data.batches(dataset, settings.split, size, seed=run.config.seed, train=False)):
            count, index = len(batch["x"]), number * size + np.arange(size, dtype=np.int32)
            padded = share(mesh, {k: np.concatenate([v, np.repeat(v[:1], size - count, 0)]) for k, v in batch.items()})
            cond = padded["label"] if run.config.train.conditional else None
            for values, part in ((coarse, 1), (fine, 10)):
                tolerance = np.float32(settings.rtol / part)  # an array, for a number would be compiled in
                result = log_likelihood(
                    jax.random.key(run.config.sampling.seed), denoiser, run.sde, padded["x"],
                    probes=settings.probes or None, cond=cond, index=share(mesh, index), rtol=tolerance, atol=tolerance,
                )  # fmt: skip
                values.append(data.bits_per_dim(np.asarray(result.log_prob, np.float64)[:count], dim, run.facts.levels))
            errors.append(np.asarray(result.std_error)[:count] / (dim * np.log(2)))
            nfe.append(int(result.nfe))
            bar.update(count)
    coarse, fine, errors = (np.concatenate(a) for a in (coarse, fine, errors))
    if not np.isfinite(fine).all():
        raise RunError(f"the likelihood of {int((~np.isfinite(fine)).sum())} of {len(fine)} images did not finish; raise config.eval.rtol")
    return {
        "split": settings.split,
        "images": len(fine),
        "bits_per_dim": float(fine.mean()),
        "std_error": float(fine.std(ddof=1) / np.sqrt(len(fine))),
        "probe_std_error": float(np.sqrt(np.mean(errors**2) / len(fine))),
        "refinement": float(np.mean(fine - coarse)),
        "nfe": max(nfe),
        "seconds": time.perf_counter() - start,
    }


def compare(fake: np.ndarray, real: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return two-sample scores of samples against training and held-out data, in raw values."""
    a, b, c = (f.reshape(len(f), -1).astype(np.float64) for f in (fake, real, held_out))
    n, m = min(len(a), len(b)), min(len(a), len(c))
    nearest = metrics.nearest_distances(a, b)
    return {
        "one_nn_train": metrics.nearest_neighbour_accuracy(a[:n], b[:n])._asdict(),
        "one_nn_held_out": metrics.nearest_neighbour_accuracy(a[:m], c[:m])._asdict(),
        "frechet_train": metrics.frechet_distance(metrics.pooled_pixels(fake), metrics.pooled_pixels(real)),
        "frechet_held_out": metrics.frechet_distance(metrics.pooled_pixels(fake), metrics.pooled_pixels(held_out)),
        "nearest_train_median": float(np.median(nearest)),
        "copies": int((nearest == 0).sum()),
    }


def floor(real: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Return the same scores of real data against real data: halves of the training set, and training against held-out."""
    order = np.random.default_rng(0).permutation(len(real))
    halves = real[order[: len(real) // 2]], real[order[len(real) // 2 : len(real) // 2 * 2]]
    a, b, c, r = (f.reshape(len(f), -1).astype(np.float64) for f in (*halves, held_out, real))
    m = min(len(r), len(c))
    return {
        "one_nn_train": metrics.nearest_neighbour_accuracy(a, b)._asdict(),
        "one_nn_held_out": metrics.nearest_neighbour_accuracy(r[order[:m]], c[:m])._asdict(),
        "frechet_train": metrics.frechet_distance(*(metrics.pooled_pixels(h) for h in halves)),
        "frechet_held_out": metrics.frechet_distance(metrics.pooled_pixels(real), metrics.pooled_pixels(held_out)),
        "nearest_train_median": float(np.median(metrics.nearest_distances(r))),
    }


def table(report: dict[str, Any]) -> str:
    """Format an evaluation as a Markdown table with a line on the likelihood."""
    head = "| sampler | NFE | seconds | 1-NN, train | 1-NN, held out | Frechet, train | Frechet, held out | nearest train |"
    lines = [head, "|" + "---|" * 8]
    rows = [("real data", {"nfe": "", "seconds": ""} | report["floor"])] if "floor" in report else []
    for name, row in [*report["samplers"].items(), *rows]:
        scores = " | ".join(f"{row[k]['value']:.3f} ± {row[k]['std_error']:.3f}" for k in ("one_nn_train", "one_nn_held_out"))
        distances = " | ".join(f"{row[k]:.2f}" for k in ("frechet_train", "frechet_held_out", "nearest_train_median"))
        seconds = f"{row['seconds']:.1f}" if row["seconds"] != "" else ""
        lines.append(f"| {name} | {row['nfe']} | {seconds} | {scores} | {distances} |")
    bits = report["likelihood"]
    line = (
        f"{bits['split']} set, {bits['images']} examples: {bits['bits_per_dim']:.3f} ± {bits['std_error']:.3f} bits/dim (probes ± "
        f"{bits['probe_std_error']:.4f}, refinement {bits['refinement']:+.4f}), NFE {bits['nfe']}, {bits['seconds']:.0f} s"
    )
    return "\n".join([line, "", *lines] if report["samplers"] else [line])


def _real(dataset: data.DataSet, split: str, limit: int = 10_000) -> np.ndarray:
    source = dataset.source(split)
    return np.stack([source[i]["x"] for i in range(min(len(source), limit))])
