"""Likelihoods of a whole split, image by image: every image once, resumable, each part of the error by itself.

`likelihood/<split>/` receives one file a batch, then `values.npz` with one row an image and `summary.json`. All in bits per dimension, of
the data's own grey levels (`data.codec`).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from samplers import log_likelihood, prior_mismatch, variational_bound
from samplers.base import sample_keys
from samplers.bound import check_draws

from .. import data
from ..errors import RunError
from ..run.build import make_dataset
from ..run.devices import fitting_mesh, replicate, share
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..storage.identity import data_hash, digest, identity
from ..storage.jobs import claim, save_arrays
from ..storage.lock import locked
from ..storage.reading import read_arrays
from ..storage.writing import write_json
from .dequantise import Redraw, restore_dequantiser
from .sample import ROOM


def likelihood(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    """Run `--mode=likelihood`; return the summary that is written."""
    settings = loaded.run.config.eval
    folder = workdir / "likelihood" / settings.split
    with locked(workdir, f"likelihood {settings.split}", room=ROOM):
        redraw = restore_dequantiser(loaded, workdir) if settings.dequantise else None
        summary = measure(loaded, make_dataset(loaded.run.config), folder, redraw)
    say(sentence(summary))
    say(f"see {folder / 'summary.json'}; every example has a row in {folder / 'values.npz'}")
    tighter = loaded.run.facts.levels is not None and redraw is None
    say_next(workdir, "dequantise" if tighter else "evaluate")
    return summary


def measure(
    loaded: Loaded,
    dataset: data.DataSet,
    folder: Path | None = None,
    redraw: Redraw | None = None,
) -> dict[str, Any]:
    """Return mean and errors of the bits per dimension of `config.eval.split`; with a `folder`, go on from the batches found there.

    Grey levels are dequantised uniformly, or by `redraw`, see `dequantise.restore_dequantiser`.

    Raises:
        RunError: a number of draws that the bound refuses, or a solve that did not finish.
    """
    run, settings, start = loaded.run, loaded.run.config.eval, time.perf_counter()
    if settings.bound_draws:
        try:
            check_draws(settings.bound_draws)
        except ValueError as error:
            raise RunError(f"config.eval.bound_draws: {error}, or 0 for no bound") from None
    source = dataset.source(settings.split)
    size = min(settings.batch_size, len(source))
    moments = moments_of(dataset, settings.train_split)
    if folder is not None:
        claim(folder, _note(loaded, dataset, size, moments, redraw))
    mesh = fitting_mesh(size, run.config.devices)
    denoiser = replicate(mesh, loaded.denoiser)
    parts = []
    with progress(len(source), "likelihood", unit="image") as bar:
        batches = data.batches(dataset, settings.split, size, seed=run.config.seed, train=False)
        for number, batch in enumerate(batches):
            path = None if folder is None else folder / f"batch_{number * size:07d}.npz"
            values = _measured_before(path, len(batch["x"]), settings.bound_draws)
            if values is None:
                index = number * size + np.arange(size, dtype=np.int32)
                values = one_batch(loaded, denoiser, mesh, batch, index, moments, redraw)
                if path is not None:
                    save_arrays(path, **values)
            parts.append(values)
            bar.update(len(batch["x"]))
    values = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "nfe"
    }
    bits = values["bits_per_dim"]
    if not np.isfinite(bits).all():
        raise RunError(
            f"the likelihood of {int((~np.isfinite(bits)).sum())} of {len(bits)} images did not finish; raise config.eval.rtol"
        )
    summary = identity(loaded) | {"split": settings.split, "images": len(bits)} | _summary(values)
    summary |= {
        "nfe": int(max(part["nfe"] for part in parts)),
        "seconds": time.perf_counter() - start,
    }
    if folder is not None:
        save_arrays(folder / "values.npz", **values)
        write_json(folder / "summary.json", summary)
    return summary


def _note(
    loaded: Loaded, dataset: data.DataSet, size: int, moments: tuple, redraw: Redraw | None
) -> dict[str, Any]:
    """Return everything that the likelihoods of a split depend on, as plain JSON."""
    config, settings = loaded.run.config, loaded.run.config.eval
    names = ("split", "train_split", "probes", "trace", "rtol", "bound_draws", "dequantise")
    return identity(loaded) | {
        "data": data_hash(dataset, settings.split),
        "train_moments": digest(b"".join(np.asarray(part).tobytes() for part in moments)),
        "dequantiser": None if redraw is None else redraw.weights,
        "seed": [config.seed, config.sampling.seed],
        "batch_size": size,
        **json.loads(json.dumps({name: settings[name] for name in names})),
    }


def _measured_before(path: Path | None, count: int, bound: int) -> dict[str, np.ndarray] | None:
    """Return the values of a batch of `count` images that were computed before; None without them, or, with a message, if damaged."""
    if path is None or not path.exists():
        return None
    names = {"bits_per_dim", "std_error", "refinement", "prior_mismatch"}
    if bound:
        names |= {"bound", "bound_std_error"}
    values = read_arrays(path, names | {"nfe"})
    if values is None or any(values[name].shape != (count,) for name in names):
        print(f"{path} is damaged; computing it anew", file=sys.stderr)
        return None
    return values


def one_batch(
    loaded: Loaded,
    denoiser: Any,
    mesh: Any,
    batch: dict,
    index: np.ndarray,
    moments: tuple,
    redraw: Redraw | None,
) -> dict[str, np.ndarray]:
    """Return the values of a batch, padded to the length of `index` while it is computed."""
    run, settings, count = loaded.run, loaded.run.config.eval, len(batch["x"])
    dim, key = int(np.prod(run.facts.shape)), jax.random.key(run.config.sampling.seed)
    padded = share(
        mesh,
        {k: np.concatenate([v, np.repeat(v[:1], len(index) - count, 0)]) for k, v in batch.items()},
    )
    numbers: Any = share(mesh, index)
    cond = padded["label"] if run.config.train.conditional else None
    x, log_q = (
        (padded["x"], 0.0)
        if redraw is None
        else redraw(sample_keys(jax.random.fold_in(key, 1), numbers), padded["x"])
    )
    x, spent = share(mesh, x), np.asarray(log_q, np.float64) / (dim * np.log(2))
    tolerance = np.float32(settings.rtol / 10)  # an array, for a number would be compiled in
    found = log_likelihood(
        key, denoiser, run.sde, x, probes=settings.probes or None, trace=settings.trace, refine=True,
        sd=run.facts.sd, cond=cond, index=numbers, rtol=tolerance, atol=tolerance,
    )  # fmt: skip
    mismatch = prior_mismatch(run.sde, found.latent, *moments)
    nats = {
        "std_error": found.std_error,
        "refinement": -found.refinement,
        "prior_mismatch": -mismatch,
    }
    values = {
        name: np.asarray(value, np.float64) / (dim * np.log(2)) for name, value in nats.items()
    }
    values["bits_per_dim"] = (
        run.facts.codec.bits_per_dim(np.asarray(found.log_prob, np.float64), dim) + spent
    )
    if settings.bound_draws:
        bound = variational_bound(
            key, denoiser, run.sde, x, draws=settings.bound_draws, cond=cond, index=numbers
        )
        values["bound"] = (
            run.facts.codec.bits_per_dim(np.asarray(bound.log_prob, np.float64), dim) + spent
        )
        values["bound_std_error"] = np.asarray(bound.std_error, np.float64) / (dim * np.log(2))
    return {name: value[:count] for name, value in values.items()} | {"nfe": np.asarray(found.nfe)}


def moments_of(
    dataset: data.DataSet, split: str, limit: int = 10_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of each coordinate of the scaled data, dequantisation noise included."""
    found = data.moments(dataset, split, limit)
    return found.mean, found.variance


def _summary(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Return means over the images, with the standard error of the mean and the part of it that is the estimate's own."""

    def mean(name):
        return {name: float(values[name].mean())}

    def errors(name, own):
        n = len(values[name])
        return float(values[name].std(ddof=1) / np.sqrt(n)), float(
            np.sqrt(np.mean(values[own] ** 2) / n)
        )

    spread, probes = errors("bits_per_dim", "std_error")
    summary = (
        mean("bits_per_dim")
        | {"std_error": spread, "probe_std_error": probes}
        | mean("refinement")
        | mean("prior_mismatch")
    )
    if "bound" in values:
        spread, own = errors("bound", "bound_std_error")
        summary |= mean("bound") | {"bound_std_error": spread, "bound_draw_std_error": own}
    return summary


def sentence(summary: dict[str, Any]) -> str:
    """Say what was found in one line."""
    error = summary["probe_std_error"]
    probes = f"probes ± {error:.4f}" if np.isfinite(error) else "one probe, whose error is unknown"
    text = (
        f"{summary['split']} set, {summary['images']} examples: {summary['bits_per_dim']:.3f} ± {summary['std_error']:.3f} bits/dim "
        f"({probes}, refinement {summary['refinement']:+.4f}, prior {summary['prior_mismatch']:+.4f}), "
    )
    if "bound" in summary:
        text += f"variational bound {summary['bound']:.3f} ± {summary['bound_std_error']:.3f}, "
    return text + f"NFE {summary['nfe']}, {summary['seconds']:.0f} s"
