"""Drawing samples from a run: any number, in batches, each sample decided by its index, so that a stopped job goes on.

`samples/<sampler>/` receives one file a batch, then `samples.npz`, `grid.png` and `summary.json`, and, with `config.sampling.keep` states
of the walk, `walk.npz` and `walk.gif`.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from samplers import draw_prior
from sde_lib import Denoiser, check_name

from ..errors import RunError
from ..run.build import Run
from ..run.devices import fitting_mesh, replicate, share
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..run.walks import make_walk
from ..storage import pictures
from ..storage.identity import identity
from ..storage.jobs import claim, save_arrays
from ..storage.lock import locked
from ..storage.reading import read_arrays
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json

ROOM = 1 << 20  # bytes that a mode wants to be free before it computes for long


class Drawn(NamedTuple):
    """Samples of one batch on the host."""

    x: np.ndarray  # (batch, ...) in model range
    nfe: int


def draw(
    run: Run, denoiser: Denoiser, setting: Any, index: np.ndarray, report: Callable | None = None
) -> Drawn:
    """Draw the samples `index` of the run's sampling seed with one entry of `config.samplers`."""
    result = _draw(run, denoiser, setting, index, 0, report)
    return Drawn(np.asarray(result.x), int(result.nfe))


def draw_walk(
    run: Run, denoiser: Denoiser, setting: Any, index: np.ndarray, keep: int
) -> np.ndarray:
    """Return the last `keep` states (0 < keep, -1: all) of the walks of the samples `index`, (states, batch, ...)."""
    return np.asarray(_draw(run, denoiser, setting, index, None if keep < 0 else keep, None).path)


def _draw(run, denoiser, setting, index, keep, report):
    walk = make_walk(setting, run.sde, run.config.denoiser.sigma_data)
    key = jax.random.key(run.config.sampling.seed)
    mesh = fitting_mesh(len(index), run.config.devices)
    index = share(mesh, np.asarray(index, np.int32))
    denoiser = replicate(mesh, denoiser)
    x = draw_prior(key, run.sde, (len(index), *run.facts.shape), index)
    cond = labels(run, index) if run.config.train.conditional else None
    return walk(key, denoiser, run.sde, x, cond=cond, index=index, keep=keep, progress=report)


def labels(run: Run, index: Any) -> Any:
    """Return the class of each sample of a conditional run: the one asked for, or all in turn."""
    label = run.config.sampling.label
    return index * 0 + label if label >= 0 else index % run.facts.num_classes


class Drawing(NamedTuple):
    """All samples of a job."""

    x: np.ndarray  # (number, ...) in model range
    nfe: int
    seconds: float  # spent on them, compilation included
    compile_seconds: float  # of these, the first batch beyond a typical one; 0 with a single batch


def draw_many(loaded: Loaded, name: str, number: int, folder: Path) -> Drawing:
    """Draw samples 0..number-1 with the sampler `config.samplers.<name>`, keeping finished batches in `folder`.

    Raises:
        RunError: samples that are not finite, or another process that draws into `folder`.
    """
    run, config = loaded.run, loaded.run.config
    check_name("sampler", name, config.samplers)
    size = min(config.sampling.batch_size, number)
    note = identity(loaded) | {
        "setting": json.loads(config.samplers[name].to_json_best_effort()),
        "batch_size": size,
        "seed": config.sampling.seed,
        "label": config.sampling.label,
    }
    unit = "image" if len(run.facts.shape) == 3 else "sample"
    seconds, parts = [], []
    with locked(folder.parent, folder.name), progress(number, f"sample {name}", unit=unit) as bar:
        claim(folder, note)
        for first in range(0, number, size):

            def report(step, steps, first=first):
                bar.update(min(first + size * step // steps, number) - bar.n)

            path = folder / f"batch_{first:07d}.npz"
            batch = _drawn_before(path, (size, *run.facts.shape))
            if batch is None:
                batch = _draw_batch(loaded, name, first + np.arange(size), report)
                save_arrays(path, **batch)
            parts.append(batch["x"])
            seconds.append(float(batch["seconds"]))
            bar.update(min(first + size, number) - bar.n)
    extra = max(0.0, seconds[0] - float(np.median(seconds[1:]))) if len(seconds) > 1 else 0.0
    return Drawing(
        x=np.concatenate(parts)[:number],
        nfe=int(batch["nfe"]),
        seconds=sum(seconds),
        compile_seconds=extra,
    )


def _draw_batch(
    loaded: Loaded, name: str, index: np.ndarray, report: Callable
) -> dict[str, np.ndarray]:
    """Draw the samples `index`; return them with their number of evaluations and their seconds."""
    start = time.perf_counter()
    setting = loaded.run.config.samplers[name]
    x, nfe = draw(loaded.run, loaded.denoiser, setting, index, report)
    if not np.isfinite(x).all():
        raise RunError(
            f"{name!r} gave samples that are not finite, from number {index[0]} on; "
            "try more steps or a smaller snr"
        )
    return {"x": x, "nfe": np.asarray(nfe), "seconds": np.asarray(time.perf_counter() - start)}


def _drawn_before(path: Path, shape: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """Return a batch that was drawn before; None if there is none, or only a damaged one, which is said."""
    if not path.exists():
        return None
    batch = read_arrays(path, {"x", "nfe", "seconds"})
    if batch is None or batch["x"].shape != shape or not np.isfinite(batch["x"]).all():
        print(f"{path} is damaged; drawing these samples anew", file=sys.stderr)
        return None
    return batch


def sample(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=sample`: draw `config.sampling.number` samples and show them."""
    config = loaded.run.config
    name = check_plain_name("the name of a sampler", config.sampling.sampler)
    with locked(workdir, f"sample {name}", room=ROOM):
        index = np.arange(
            16 if len(loaded.run.facts.shape) == 3 else min(config.sampling.number, 500)
        )
        path = None
        if config.sampling.keep:
            path = draw_walk(
                loaded.run, loaded.denoiser, config.samplers[name], index, config.sampling.keep
            )
        drawing = draw_many(loaded, name, config.sampling.number, workdir / "samples" / name)
        _show(loaded, drawing, path, workdir / "samples" / name)


def _show(loaded: Loaded, drawing: Drawing, path: np.ndarray | None, folder: Path) -> None:
    """Write samples, and the states of their walk if there are any, as arrays and as pictures."""
    config, facts = loaded.run.config, loaded.run.facts
    name, number = config.sampling.sampler, config.sampling.number
    raw = facts.codec.decode(drawing.x)
    classes = (
        {"label": np.asarray(labels(loaded.run, np.arange(number)))}
        if config.train.conditional
        else {}
    )
    save_arrays(folder / "samples.npz", x=raw, **classes)
    summary = {
        "sampler": name,
        "samples": number,
        "nfe": drawing.nfe,
        "seconds": drawing.seconds,
    }
    write_json(folder / "summary.json", identity(loaded) | summary)
    if path is not None:
        save_arrays(folder / "walk.npz", x=path)
    try:
        shown = drawing.x[:64] if raw.ndim == 4 else drawing.x
        pictures.save_png(folder / "grid.png", pictures.picture(shown, facts.codec))
        if path is not None:
            pictures.save_gif(folder / "walk.gif", path, facts.codec)
    except Exception as error:  # whatever a library of pictures raises: the samples are kept
        say(f"no picture of the samples ({type(error).__name__}: {error}); the numbers are kept")
    say(
        f"{number} samples by {name}: {drawing.nfe} network evaluations each, {drawing.seconds:.1f} s; see {folder / 'grid.png'}, "
        f"the numbers are in {folder / 'samples.npz'}"
    )
    say_next(folder.parents[1], "evaluate")


def with_settings(loaded: Loaded, config: ConfigDict | None, sections: tuple[str, ...]) -> Loaded:
    """Return a loaded run whose `sections` are those of `config`, the command line's; the rest stays as it was trained."""
    if config is None:
        return loaded
    merged = ConfigDict(loaded.config).unlock()
    for section in sections:
        merged[section] = config[section]
    return loaded._replace(config=merged, run=loaded.run._replace(config=merged))
