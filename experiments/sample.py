"""Drawing samples from a run: any number, in batches, each sample decided by its index, so that a stopped job goes on.

`samples/<sampler>/` receives one file a batch, then `samples.npz`, `grid.png` and `summary.json`, and, with `config.sampling.keep` states
of the walk, `walk.npz` and `walk.gif`.
"""

import io
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from samplers import draw_prior
from samplers import sample as walk
from sde_lib import Denoiser, check_name

from . import data, pictures
from .build import Loaded, Run
from .devices import fitting_mesh, replicate, share
from .errors import RunError
from .messages import progress, say, say_next
from .walks import ADAPTIVE as ADAPTIVE
from .walks import make_walk as make_walk
from .writing import write_bytes, write_json


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
    if setting.name in (*ADAPTIVE, "FewSteps"):
        raise ValueError(
            f"{setting.name} keeps no walk; choose a sampler with a grid, or sampling.keep = 0"
        )
    return np.asarray(_draw(run, denoiser, setting, index, None if keep < 0 else keep, None).path)


def _draw(run, denoiser, setting, index, keep, report):
    sampler, ts = make_walk(setting, run.sde, run.config.denoiser.sigma_data)
    key, mesh = (
        jax.random.key(run.config.sampling.seed),
        fitting_mesh(len(index), run.config.devices),
    )
    index = share(mesh, np.asarray(index, np.int32))
    denoiser = replicate(mesh, denoiser)
    x = draw_prior(key, run.sde, (len(index), *run.facts.shape), index)
    cond = labels(run, index) if run.config.train.conditional else None
    if setting.name == "reverse_sde":
        return sampler(key, denoiser, run.sde, x, cond=cond, index=index)
    if ts is None:
        return sampler(denoiser, run.sde, x, cond=cond)
    return walk(
        key, sampler, denoiser, run.sde, ts, x, cond=cond, index=index, keep=keep, progress=report
    )


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
        RunError: samples that are not finite.
    """
    run, config = loaded.run, loaded.run.config
    check_name("sampler", name, config.samplers)
    setting, size = config.samplers[name], min(config.sampling.batch_size, number)
    asked = {
        "checkpoint": loaded.step,
        "setting": json.loads(setting.to_json_best_effort()),
        "batch_size": size,
    }
    asked |= {"seed": config.sampling.seed, "label": config.sampling.label}
    claim(folder, asked)
    seconds, nfe, parts = [], 0, []
    with progress(
        number, f"sample {name}", unit="image" if len(run.facts.shape) == 3 else "sample"
    ) as bar:
        for first in range(0, number, size):
            path = folder / f"batch_{first:07d}.npz"
            if not path.exists():
                start = time.perf_counter()

                def report(step, steps, first=first):
                    bar.update(min(first + size * step // steps, number) - bar.n)

                x, nfe = draw(run, loaded.denoiser, setting, first + np.arange(size), report)
                if not np.isfinite(x).all():
                    raise RunError(
                        f"{name!r} gave samples that are not finite, from number {first} on; try more steps or a smaller snr"
                    )
                save_arrays(path, x=x, nfe=nfe, seconds=time.perf_counter() - start)
            with np.load(path) as saved:
                parts.append(saved["x"])
                nfe, spent = int(saved["nfe"]), float(saved["seconds"])
            seconds.append(spent)
            bar.update(min(first + size, number) - bar.n)
    extra = max(0.0, seconds[0] - float(np.median(seconds[1:]))) if len(seconds) > 1 else 0.0
    return Drawing(np.concatenate(parts)[:number], nfe, sum(seconds), extra)


def sample(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=sample`: draw `config.sampling.number` samples and show them."""
    config, facts = loaded.run.config, loaded.run.facts
    name, number = config.sampling.sampler, config.sampling.number
    folder, path = workdir / "samples" / name, None
    if config.sampling.keep:
        index = np.arange(16 if len(facts.shape) == 3 else min(number, 500))
        path = draw_walk(
            loaded.run, loaded.denoiser, config.samplers[name], index, config.sampling.keep
        )
    drawing = draw_many(loaded, name, number, folder)
    raw = data.unscale(drawing.x, facts.levels)
    classes = (
        {"label": np.asarray(labels(loaded.run, np.arange(number)))}
        if config.train.conditional
        else {}
    )
    save_arrays(folder / "samples.npz", x=raw, **classes)
    summary = {
        "sampler": name,
        "checkpoint": loaded.step,
        "samples": number,
        "nfe": drawing.nfe,
        "seconds": drawing.seconds,
    }
    write_json(folder / "summary.json", summary)
    if path is not None:
        save_arrays(folder / "walk.npz", x=path)
    try:
        shown = drawing.x[:64] if raw.ndim == 4 else drawing.x
        pictures.save_png(folder / "grid.png", pictures.picture(shown, facts.levels))
        if path is not None:
            pictures.save_gif(folder / "walk.gif", path, facts.levels)
    except Exception as error:  # whatever a library of pictures raises: the samples are kept
        say(f"no picture of the samples ({type(error).__name__}: {error}); the numbers are kept")
    say(
        f"{number} samples by {name}: {drawing.nfe} network evaluations each, {drawing.seconds:.1f} s; see {folder / 'grid.png'}, "
        f"the numbers are in {folder / 'samples.npz'}"
    )
    say_next(workdir, "evaluate")


def with_settings(loaded: Loaded, config: ConfigDict | None, sections: tuple[str, ...]) -> Loaded:
    """Return a loaded run whose `sections` are those of `config`, the command line's; the rest stays as it was trained."""
    if config is None:
        return loaded
    merged = ConfigDict(loaded.config).unlock()
    for section in sections:
        merged[section] = config[section]
    return loaded._replace(config=merged, run=loaded.run._replace(config=merged))


def claim(folder: Path, asked: dict) -> None:
    """Make `folder` the place of this job; move aside what another checkpoint or setting left there."""
    note = folder / "job.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        aside = next(
            p
            for i in itertools.count(1)
            if not (p := folder.with_name(f"{folder.name}.{i}")).exists()
        )
        folder.rename(aside)
        say(f"earlier results, of another checkpoint or setting, are now in {aside}")
    write_json(note, asked)


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays as .npz in one piece."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
