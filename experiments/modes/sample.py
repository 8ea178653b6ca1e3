"""Drawing samples from a run: any number, in batches.

Each sample is decided by its index, so that a stopped job goes on.

`samples/<sampler>/` receives one file a batch, then `samples.npz`, `grid.png` and `summary.json`,
and, with `config.sampling.keep` states of the walk, `walk.npz` and `walk.gif`.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from samplers import Samples, draw_prior
from sde_lib import Denoise, check_name

from ..card.page import update_card
from ..errors import RunError
from ..run.build import Run
from ..run.conditions import conditions_digest, named_conditions, sampled_conditions
from ..run.devices import fitting_mesh, replicate, share
from ..run.guidance import guided
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..run.walks import make_walk
from ..storage import pictures
from ..storage.identity import identity
from ..storage.jobs import claim, save_arrays, stored_batch
from ..storage.lock import locked
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json

ROOM = 1 << 20  # bytes that a mode wants to be free before it computes for long


class SampleBatch(NamedTuple):
    """Samples of one batch on the host."""

    x: np.ndarray  # (batch, ...) in model range
    nfe: int


class SampleJob(NamedTuple):
    """All samples of a job, and what they cost."""

    x: np.ndarray  # (number, ...) in model range
    nfe: int
    seconds: float  # spent on them, compilation included
    compile_seconds: float  # of these, the first batch beyond a typical one; 0 with a single batch
    guidance: dict[str, Any] = {}  # what identifies it; {}: none


def draw(
    run: Run, denoise: Denoise, setting: Any, index: np.ndarray, report: Callable | None = None
) -> SampleBatch:
    """Return the samples `index` (batch,) of the run's sampling seed.

    Args:
        run: the run.
        denoise: the denoise function to walk with, such as that of `guidance.guided`.
        setting: an entry of `config.samplers`.
        index: the numbers of the samples.
        report: called with (steps made, steps in all) while the samples are drawn.
    """
    samples = _draw(run, denoise, setting, index, 0, report)
    return SampleBatch(x=np.asarray(samples.x), nfe=int(samples.nfe))


def draw_walk(run: Run, denoise: Denoise, setting: Any, index: np.ndarray, keep: int) -> np.ndarray:
    """Return the last `keep` states of the walks of the samples `index`, (states, batch, ...).

    `keep` is a positive number, or -1 for all states.
    """
    samples = _draw(run, denoise, setting, index, None if keep < 0 else keep, None)
    return np.asarray(samples.path)


def _draw(
    run: Run,
    denoise: Denoise,
    setting: Any,
    index: np.ndarray,
    keep: int | None,
    report: Callable | None,
) -> Samples:
    """Return samples and the last `keep` states of their walks (None: all)."""
    walk = make_walk(setting, run.sde, run.config.denoiser.sigma_data)
    key = jax.random.key(run.config.sampling.seed)
    mesh = fitting_mesh(len(index), run.config.devices)
    numbers: Any = share(mesh, np.asarray(index, np.int32))
    denoise = replicate(mesh, denoise)
    x = draw_prior(key, run.sde, (len(index), *run.facts.shape), numbers)
    cond = sampled_conditions(run, numbers)
    return walk(key, denoise, run.sde, x, cond=cond, index=numbers, keep=keep, progress=report)


def check_can_draw(loaded: Loaded) -> None:
    """Raise an error if samples could not be drawn, before time is spent on anything else.

    Raises:
        RunError: there are no conditions, or what shall guide cannot be opened.
    """
    conditions_digest(loaded.run)
    guided(loaded)


def draw_many(loaded: Loaded, name: str, number: int, folder: Path) -> SampleJob:
    """Draw samples 0..number-1 with the sampler `config.samplers.<name>`, guided as the run says.

    Every finished batch is written into `folder`, and those that are there are not drawn again.

    Raises:
        RunError: samples that are not finite, or another process that draws into `folder`.
    """
    run = loaded.run
    config = run.config
    check_name("sampler", name, config.samplers)
    size = min(config.sampling.batch_size, number)
    denoise, guidance = guided(loaded)
    note = identity(loaded) | {
        "setting": json.loads(config.samplers[name].to_json_best_effort()),
        "batch_size": size,
        "seed": config.sampling.seed,
        "label": config.sampling.label,
        "condition": conditions_digest(run),
        "guidance": guidance,
    }
    unit = "image" if len(run.facts.shape) == 3 else "sample"
    seconds = []
    parts = []
    with locked(folder.parent, folder.name), progress(number, f"sample {name}", unit=unit) as bar:
        claim(folder, note)
        for first in range(0, number, size):

            def report(step, steps, first=first):
                bar.update(min(first + size * step // steps, number) - bar.n)

            path = folder / f"batch_{first:07d}.npz"
            batch = stored_batch(path, (size, *run.facts.shape))
            if batch is None:
                batch = _draw_batch(run, denoise, name, first + np.arange(size), report)
                save_arrays(path, **batch)
            parts.append(batch["x"])
            seconds.append(float(batch["seconds"]))
            bar.update(min(first + size, number) - bar.n)
    compile_seconds = 0.0
    if len(seconds) > 1:
        compile_seconds = max(0.0, seconds[0] - float(np.median(seconds[1:])))
    return SampleJob(
        x=np.concatenate(parts)[:number],
        nfe=int(batch["nfe"]),
        seconds=sum(seconds),
        compile_seconds=compile_seconds,
        guidance=guidance,
    )


def _draw_batch(
    run: Run, denoise: Denoise, name: str, index: np.ndarray, report: Callable
) -> dict[str, np.ndarray]:
    """Draw the samples `index`; return them with their number of evaluations and their seconds."""
    start = time.perf_counter()
    x, nfe = draw(run, denoise, run.config.samplers[name], index, report)
    if not np.isfinite(x).all():
        raise RunError(
            f"{name!r} gave samples that are not finite, from number {index[0]} on; "
            "try more steps or a smaller snr"
        )
    return {"x": x, "nfe": np.asarray(nfe), "seconds": np.asarray(time.perf_counter() - start)}


def sample(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=sample`: draw `config.sampling.number` samples and show them."""
    config = loaded.run.config
    name = check_plain_name("the name of a sampler", config.sampling.sampler)
    with locked(workdir, f"sample {name}", room=ROOM):
        states = None
        if config.sampling.keep:
            images = len(loaded.run.facts.shape) == 3
            index = np.arange(16 if images else min(config.sampling.number, 500))
            states = draw_walk(
                loaded.run,
                guided(loaded).denoise,
                config.samplers[name],
                index,
                config.sampling.keep,
            )
        job = draw_many(loaded, name, config.sampling.number, workdir / "samples" / name)
        _show(loaded, job, states, workdir / "samples" / name)
    update_card(workdir)


def _show(loaded: Loaded, job: SampleJob, states: np.ndarray | None, folder: Path) -> None:
    """Write samples, and the states of their walk if there are any, as arrays and as pictures."""
    config = loaded.run.config
    codec = loaded.run.facts.codec
    name = config.sampling.sampler
    number = config.sampling.number
    arrays = {"x": codec.decode(job.x)}
    arrays |= named_conditions(loaded.run, np.arange(number))
    save_arrays(folder / "samples.npz", **arrays)
    summary = {
        "sampler": name,
        "guidance": job.guidance,
        "samples": number,
        "nfe": job.nfe,
        "seconds": job.seconds,
    }
    write_json(folder / "summary.json", identity(loaded) | summary)
    if states is not None:
        save_arrays(folder / "walk.npz", x=states)
    try:
        shown = job.x[:64] if job.x.ndim == 4 else job.x
        pictures.save_png(folder / "grid.png", pictures.picture(shown, codec))
        if states is not None:
            pictures.save_gif(folder / "walk.gif", states, codec)
    except Exception as error:  # whatever a library of pictures raises: the samples are kept
        say(f"no picture of the samples ({type(error).__name__}: {error}); the numbers are kept")
    say(
        f"{number} samples by {name}: {job.nfe} network evaluations each, "
        f"{job.seconds:.1f} s; see {folder / 'grid.png'}, the numbers are in "
        f"{folder / 'samples.npz'}"
    )
    say_next(folder.parents[1], "evaluate")


def with_settings(loaded: Loaded, config: ConfigDict | None, sections: tuple[str, ...]) -> Loaded:
    """Return a loaded run whose `sections` are those of `config`, the command line's.

    The rest stays as it was trained.
    """
    if config is None:
        return loaded
    merged = ConfigDict(loaded.config).unlock()
    for section in sections:
        merged[section] = config[section]
    return loaded._replace(config=merged, run=loaded.run._replace(config=merged))
