"""Restoring what degraded observations were made of, with a trained network as the prior.

    python -m experiments.main --workdir=runs/digits --mode=restore \\
        --config.inverse.operator.name=Pool
    ... --config.inverse.observation=low.png,other.png --config.inverse.std=0.05

Without observations, examples of the data are measured by the operator, and shown beside.

`restored/<method>/` receives one file a batch, then `samples.npz` in the values of the data,
`restored.png` and `summary.json`.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..card.page import update_card
from ..data.base import read_checked
from ..data.codec import GreyLevels
from ..data.streaming import evenly_spaced
from ..run.build import make_dataset
from ..run.check import check_data
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..run.noise import read_noise
from ..run.observations import raw_spread, raw_values, read_observations
from ..run.operators import make_operator
from ..run.restoration import Part, Restored, Task, check_task, draw_part, gathered, parts_of
from ..storage.identity import identity
from ..storage.jobs import claim, save_arrays, stored_batch
from ..storage.lock import ROOM, locked
from ..storage.pictures import save_png
from ..storage.restored_picture import restored_picture
from ..storage.writing import write_json


class Job(NamedTuple):
    """What is restored, and what it was where that is known."""

    task: Task
    truth: np.ndarray | None  # (observations, ...) in model values


def restore(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=restore`: restore observations and show the samples.

    Raises:
        RunError: an observation that cannot be read or does not fit, or samples that are not
            finite.
        ValueError: a setting out of range, or a method that cannot take the operator.
    """
    method = loaded.run.config.inverse.method
    with locked(workdir, f"restore {method}", room=ROOM):
        job = make_job(loaded)
        folder = workdir / "restored" / method
        restored, seconds = _draw_all(loaded, job.task, folder)
        _show(loaded, job, restored, seconds, folder)
    update_card(workdir)


def make_job(loaded: Loaded) -> Job:
    """Return what the configuration of a run says is to be restored; nothing is drawn or written.

    Raises:
        RunError, ValueError: see `restore`.
    """
    run = loaded.run
    setting = run.config.inverse
    measured = make_operator(setting.operator, tuple(run.facts.shape))
    task = Task(
        y=np.zeros((1, *measured.shape), np.float32),
        measured=measured,
        noise=read_noise(setting, measured.shape),
        method=setting.method,
        settings=dict(setting.settings),
        steps=setting.steps,
        samples=setting.samples,
        seed=run.config.sampling.seed,
        label=run.config.sampling.label,
        condition=run.config.sampling.condition,
    )
    check_task(loaded, task)
    if setting.observation:
        y = read_observations(setting.observation, measured, run.facts.codec, task.noise.std)
        return Job(task=task._replace(y=y), truth=None)
    truth = _examples(loaded)
    exact = jax.vmap(measured.operator)(jnp.asarray(truth, jnp.float32))
    y = task.noise.draw(jax.random.key(task.seed), exact)
    return Job(task=task._replace(y=np.asarray(y)), truth=truth)


def _examples(loaded: Loaded) -> np.ndarray:
    """Return examples of the data, evenly spaced over their split, as expected model values."""
    run = loaded.run
    setting = run.config.inverse
    dataset = make_dataset(run.config)
    check_data(run, dataset)
    source = dataset.source(setting.split)
    rows = evenly_spaced(len(source), setting.number)
    raw, _ = read_checked(dataset, setting.split, source, rows)
    return run.facts.codec.expected(raw)


def _draw_all(loaded: Loaded, task: Task, folder: Path) -> tuple[Restored, float]:
    """Draw all samples of a task and return them with the seconds that they took.

    Every finished batch is written into `folder`, and those that are there are not drawn again.
    """
    size = loaded.run.config.sampling.batch_size
    parts = parts_of(task, size)
    total = len(task.y) * task.samples
    seconds = 0.0
    drawn = []
    with progress(total, f"restore {task.method}", unit="sample") as bar:
        claim(folder, _note(loaded, task))
        for index in parts:

            def report(step, steps, index=index):
                done = int(index[0]) + len(index) * step // steps
                bar.update(min(done, total) - bar.n)

            path = folder / f"batch_{index[0]:07d}.npz"
            batch = stored_batch(path, (len(index), *task.measured.example))
            if batch is None:
                start = time.perf_counter()
                part = draw_part(loaded, task, index, report)
                spent = time.perf_counter() - start
                batch = {"x": part.x, "nfe": np.asarray(part.nfe), "seconds": np.asarray(spent)}
                save_arrays(path, **batch)
            drawn.append(Part(x=batch["x"], nfe=int(batch["nfe"])))
            seconds += float(batch["seconds"])
            bar.update(min(int(index[-1]) + 1, total) - bar.n)
    return gathered(task, drawn), seconds


def _note(loaded: Loaded, task: Task) -> dict[str, Any]:
    """Return everything that the samples depend on, as plain JSON."""
    setting = json.loads(loaded.run.config.inverse.to_json_best_effort())
    digest = hashlib.sha256(f"{task.y.shape}".encode() + np.ascontiguousarray(task.y).tobytes())
    for leaf in jax.tree.leaves((task.measured.operator, task.noise.cov)):
        if hasattr(leaf, "shape"):
            digest.update(np.asarray(leaf).tobytes())
    return identity(loaded) | {
        "operator": setting["operator"],
        "std": setting["std"],
        "method": task.method,
        "settings": setting["settings"],
        "steps": task.walk_steps,
        "samples": task.samples,
        "batch_size": loaded.run.config.sampling.batch_size,
        "seed": task.seed,
        "label": task.label,
        "condition": task.condition,
        "observation": digest.hexdigest(),
    }


def _show(loaded: Loaded, job: Job, restored: Restored, seconds: float, folder: Path) -> None:
    """Write what was restored as arrays, a picture and numbers, and say what came of it."""
    task = job.task
    codec = loaded.run.facts.codec
    y = raw_values(task.y, codec) if task.measured.keeps_values else task.y
    arrays = {
        "x": codec.decode(restored.x),
        "mean": raw_values(restored.mean, codec),
        "std": raw_spread(restored.std, codec),
        "observation": y,
    }
    if job.truth is not None:
        arrays["truth"] = codec.decode(job.truth)
    save_arrays(folder / "samples.npz", **arrays)
    summary = _summary(loaded, job, restored) | {"seconds": seconds}
    write_json(folder / "summary.json", identity(loaded) | summary)
    try:
        save_png(folder / "restored.png", restored_picture(task, restored, job.truth, codec))
    except Exception as error:  # whatever a library of pictures raises: the samples are kept
        say(f"no picture of the samples ({type(error).__name__}: {error}); the numbers are kept")
    quality = f", PSNR {np.mean(summary['psnr']):.2f} dB" if "psnr" in summary else ""
    say(
        f"{task.samples} samples of each of {len(task.y)} observations by {task.method}: "
        f"{restored.nfe} network evaluations each, {seconds:.1f} s; chi-square "
        f"{np.mean(restored.chi_square):.3g} (1 is right){quality}; see "
        f"{folder / 'restored.png'}, the numbers are in {folder / 'samples.npz'}"
    )
    say_next(folder.parents[1], "sample")


def _summary(loaded: Loaded, job: Job, restored: Restored) -> dict[str, Any]:
    """Return how the observations were restored and how well, as plain JSON."""
    task = job.task
    setting = json.loads(loaded.run.config.inverse.to_json_best_effort())
    summary = {
        "method": task.method,
        "settings": setting["settings"],
        "steps": task.walk_steps,
        "operator": setting["operator"],
        "std": task.noise.std,
        "noise": setting["noise"],
        "observations": len(task.y),
        "samples": task.samples,
        "nfe": restored.nfe,
        "chi_square": restored.chi_square,
    }
    if job.truth is not None:
        errors = restored.mean - job.truth
        summary["rmse"] = np.sqrt(_mean_square(errors))
        if job.truth.ndim == 4:
            summary["psnr"] = psnr(loaded, errors)
            summary["psnr_of_samples"] = psnr(loaded, restored.x - job.truth[:, None])
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in summary.items()
    }


def psnr(loaded: Loaded, errors: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio in dB, (observations,).

    The peak is the distance of the darkest and the lightest model value that a picture shows.

    Args:
        loaded: the run.
        errors: of model values, (observations, ...).
    """
    codec = loaded.run.facts.codec
    peak = 2.0
    if isinstance(codec, GreyLevels):
        peak -= 2 / codec.levels
    return 20 * np.log10(peak) - 10 * np.log10(np.maximum(_mean_square(errors), 1e-20))


def _mean_square(errors: np.ndarray) -> np.ndarray:
    """Return the mean square of errors of each observation, (observations,)."""
    return (np.asarray(errors, np.float64) ** 2).reshape(len(errors), -1).mean(1)
