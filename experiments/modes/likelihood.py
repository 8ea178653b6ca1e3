"""Likelihoods of a whole split, image by image, with each part of the error by itself.

`likelihood/<split>/` receives one file a batch, so that a stopped job goes on, then `values.npz`
with one row an image, and `summary.json`. All are in bits per dimension, of the data's own grey
levels (`data.codec`).
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from samplers import LogLikelihood, log_likelihood, prior_mismatch, variational_bound
from samplers.base import sample_keys
from samplers.bound import check_draws

from .. import data
from ..card.page import update_card
from ..errors import RunError
from ..run.build import Run, make_dataset
from ..run.conditions import conditions_of
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..run.placement import placement, share
from ..storage.identity import data_hash, digest, identity
from ..storage.jobs import claim, save_arrays
from ..storage.lock import ROOM, locked
from ..storage.reading import read_arrays
from ..storage.writing import write_json
from .dequantise import Redraw, restore_dequantiser


def likelihood(loaded: Loaded, workdir: Path) -> dict[str, Any]:
    """Run `--mode=likelihood`; return the summary that is written."""
    settings = loaded.run.config.eval
    folder = workdir / "likelihood" / settings.split
    with locked(workdir, f"likelihood {settings.split}", room=ROOM):
        redraw = restore_dequantiser(loaded, workdir) if settings.dequantise else None
        summary = measure_likelihood(loaded, make_dataset(loaded.run.config), folder, redraw)
    update_card(workdir)
    say(sentence(summary))
    say(f"see {folder / 'summary.json'}; every example has a row in {folder / 'values.npz'}")
    tighter = loaded.run.facts.levels is not None and redraw is None
    say_next(workdir, "dequantise" if tighter else "evaluate")
    return summary


def measure_likelihood(
    loaded: Loaded,
    dataset: data.DataSet,
    folder: Path | None = None,
    redraw: Redraw | None = None,
) -> dict[str, Any]:
    """Return mean and errors of the bits per dimension of `config.eval.split`.

    Args:
        loaded: the run.
        dataset: its data.
        folder: receives the values of each batch, and those that are there are not computed again;
            None: nothing is written.
        redraw: dequantises the grey levels, see `dequantise.restore_dequantiser`; None: uniformly.

    Raises:
        RunError: a number of draws that the bound refuses, or a solve that did not finish.
    """
    start = time.perf_counter()
    settings = loaded.run.config.eval
    if settings.bound_draws:
        try:
            check_draws(settings.bound_draws)
        except ValueError as error:
            raise RunError(f"config.eval.bound_draws: {error}, or 0 for no bound") from None
    batches = _batch_values(loaded, dataset, folder, redraw)
    values = {
        name: np.concatenate([batch[name] for batch in batches])
        for name in batches[0]
        if name != "nfe"
    }
    bits = values["bits_per_dim"]
    if not np.isfinite(bits).all():
        raise RunError(
            f"the likelihood of {int((~np.isfinite(bits)).sum())} of {len(bits)} images did not "
            "finish; raise config.eval.rtol"
        )
    summary = identity(loaded) | {"split": settings.split, "images": len(bits)} | _summary(values)
    summary |= {
        "nfe": int(max(batch["nfe"] for batch in batches)),
        "seconds": time.perf_counter() - start,
    }
    if folder is not None:
        save_arrays(folder / "values.npz", **values)
        write_json(folder / "summary.json", summary)
    return summary


def _batch_values(
    loaded: Loaded, dataset: data.DataSet, folder: Path | None, redraw: Redraw | None
) -> list[dict[str, np.ndarray]]:
    """Return the values of every batch of the split; those that are in `folder` are read there."""
    run = loaded.run
    settings = run.config.eval
    available = len(dataset.source(settings.split))
    size = min(settings.batch_size, available)
    number = available
    if settings.examples:
        number = min(available, -(-settings.examples // size) * size)
    moments = moments_of(dataset, settings.train_split)
    if folder is not None:
        claim(folder, _note(loaded, dataset, size, moments, redraw))
    place = placement(run.config, size, fitting=True)
    denoiser = place.put_weights(loaded.denoiser)
    all_values = []
    with progress(number, "likelihood", unit="image") as bar:
        batches = data.batches(dataset, settings.split, size, seed=run.config.seed, train=False)
        for i, batch in enumerate(itertools.islice(batches, -(-number // size))):
            path = None if folder is None else folder / f"batch_{i * size:07d}.npz"
            values = _earlier_values(path, len(batch["x"]), settings.bound_draws)
            if values is None:
                index = i * size + np.arange(size, dtype=np.int32)
                values = one_batch(loaded, denoiser, place.mesh, batch, index, moments, redraw)
                if path is not None:
                    save_arrays(path, **values)
            all_values.append(values)
            bar.update(len(batch["x"]))
    return all_values


def _note(
    loaded: Loaded, dataset: data.DataSet, size: int, moments: tuple, redraw: Redraw | None
) -> dict[str, Any]:
    """Return everything that the likelihoods of a split depend on, as plain JSON."""
    config = loaded.run.config
    settings = config.eval
    names = ("split", "train_split", "probes", "trace", "rtol", "bound_draws", "dequantise")
    return identity(loaded) | {
        "data": data_hash(dataset, settings.split),
        "train_moments": digest(b"".join(np.asarray(part).tobytes() for part in moments)),
        "dequantiser": None if redraw is None else redraw.weights,
        "seed": [config.seed, config.sampling.seed],
        "batch_size": size,
        **json.loads(json.dumps({name: settings[name] for name in names})),
    }


def _earlier_values(path: Path | None, count: int, bound: int) -> dict[str, np.ndarray] | None:
    """Return the values of a batch of `count` images that were computed before.

    The result is None where there is no file, and, after a message, where it is damaged. `bound`:
    the number of draws of the bound, without which (0) the file need not hold one.
    """
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
    """Return the values of a batch by name, (images,), and the number of evaluations, "nfe".

    `index` holds the numbers of the images in the split, of a full batch; a shorter batch is padded
    to that length while it is computed.
    """
    run = loaded.run
    settings = run.config.eval
    key = jax.random.key(run.config.sampling.seed)
    padded = share(mesh, _padded(batch, len(index)))
    x = padded["x"]
    numbers: Any = share(mesh, index)
    cond = conditions_of(run, padded)
    log_q = 0.0
    if redraw is not None:
        x, log_q = redraw(sample_keys(jax.random.fold_in(key, 1), numbers), x)
        x = share(mesh, x)
    solution = _solve(run, denoiser, key, x, cond, numbers)
    bits = _Bits(codec=run.facts.codec, dim=int(np.prod(run.facts.shape)), log_q=log_q)
    values = {
        "std_error": bits.of(solution.std_error),
        "refinement": bits.of(-solution.refinement),
        "prior_mismatch": bits.of(-prior_mismatch(run.sde, solution.latent, *moments)),
        "bits_per_dim": bits.code_length(solution.log_prob),
    }
    if settings.bound_draws:
        bound = variational_bound(
            key, denoiser, run.sde, x, draws=settings.bound_draws, cond=cond, index=numbers
        )
        values["bound"] = bits.code_length(bound.log_prob)
        values["bound_std_error"] = bits.of(bound.std_error)
    values = {name: value[: len(batch["x"])] for name, value in values.items()}
    return values | {"nfe": np.asarray(solution.nfe)}


def _solve(
    run: Run, denoiser: Any, key: Array, x: Array, cond: Any, numbers: Array
) -> LogLikelihood:
    """Return the likelihoods, in nats, of model values (batch, ...), as `config.eval` says."""
    settings = run.config.eval
    tolerance = np.float32(settings.rtol / 10)  # an array, for a number would be compiled in
    return log_likelihood(
        key,
        denoiser,
        run.sde,
        x,
        probes=settings.probes or None,
        trace=settings.trace,
        refine=True,
        sd=run.facts.sd,
        cond=cond,
        index=numbers,
        rtol=tolerance,
        atol=tolerance,
    )


class _Bits(NamedTuple):
    """From nats of an image to bits per dimension, in float64."""

    codec: data.Codec
    dim: int  # values of an image
    log_q: Any  # (batch,) log-density, in nats, of what a learned dequantisation drew

    def of(self, nats: Any) -> np.ndarray:
        """Return bits per dimension."""
        return np.asarray(nats, np.float64) / (self.dim * np.log(2))

    def code_length(self, log_prob: Any) -> np.ndarray:
        """Return the bits per dimension of the raw values, from log p of the model values."""
        log_prob = np.asarray(log_prob, np.float64)
        return self.codec.bits_per_dim(log_prob, self.dim) + self.of(self.log_q)


def _padded(batch: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Return a batch of `length` examples: those that there are, then the first one repeated."""
    return {
        name: np.concatenate([values, np.repeat(values[:1], length - len(values), axis=0)])
        for name, values in batch.items()
    }


def moments_of(
    dataset: data.DataSet, split: str, limit: int = 10_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of each coordinate of the scaled data.

    The dequantisation noise is included.
    """
    moments = data.moments(dataset, split, limit)
    return moments.mean, moments.variance


def _summary(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Return means over the images, and their standard errors.

    Beside the standard error of a mean stands the part of it that the estimates of the single
    images have by themselves.
    """
    number = len(values["bits_per_dim"])

    def mean(name):
        return float(values[name].mean())

    def error(name):
        return float(values[name].std(ddof=1) / np.sqrt(number))

    def error_of_estimates(name):
        return float(np.sqrt(np.mean(values[name] ** 2) / number))

    summary = {
        "bits_per_dim": mean("bits_per_dim"),
        "std_error": error("bits_per_dim"),
        "probe_std_error": error_of_estimates("std_error"),
        "refinement": mean("refinement"),
        "prior_mismatch": mean("prior_mismatch"),
    }
    if "bound" in values:
        summary |= {
            "bound": mean("bound"),
            "bound_std_error": error("bound"),
            "bound_draw_std_error": error_of_estimates("bound_std_error"),
        }
    return summary


def sentence(summary: dict[str, Any]) -> str:
    """Return a summary in one line."""
    error = summary["probe_std_error"]
    probes = f"probes ± {error:.4f}" if np.isfinite(error) else "one probe, whose error is unknown"
    text = (
        f"{summary['split']} set, {summary['images']} examples: {summary['bits_per_dim']:.3f} ± "
        f"{summary['std_error']:.3f} bits/dim ({probes}, refinement {summary['refinement']:+.4f}, "
        f"prior {summary['prior_mismatch']:+.4f}), "
    )
    if "bound" in summary:
        text += f"variational bound {summary['bound']:.3f} ± {summary['bound_std_error']:.3f}, "
    return text + f"NFE {summary['nfe']}, {summary['seconds']:.0f} s"
