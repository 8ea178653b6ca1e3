"""Drawing samples from a run: any number, in the memory of a batch.

Each sample is decided by its index, so that a stopped job goes on where it stopped.

`samples/<sampler>/` receives one file a batch (see `storage.parts`), then `samples.npz` or the
folder `png`, `grid.png` and `summary.json`, and, with `config.sampling.keep` states of the walk,
`walk.npz` and `walk.gif`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from samplers import Samples, draw_prior
from sde_lib import Denoise, check_name

from ..card.page import update_card
from ..errors import RunError
from ..processes import fetched
from ..run.blocks import BlockProgram, block_size, groups_for
from ..run.build import Run
from ..run.conditions import conditions_digest, named_conditions, sampled_conditions
from ..run.guidance import guided
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next
from ..run.placement import placement, share
from ..run.sample_parts import PartJob, finished_part, part_size
from ..run.walks import make_walk
from ..storage import pictures
from ..storage.gathered import check_format, save_pngs, save_stream
from ..storage.identity import identity
from ..storage.jobs import claim, save_arrays
from ..storage.lock import ROOM, locked
from ..storage.parts import Parts, path_of
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json

SHOWN_IMAGES = 64  # in the picture of samples
SHOWN_POINTS = 10_000


class SampleBatch(NamedTuple):
    """Samples of one batch on the host."""

    x: np.ndarray  # (batch, ...) in model range
    nfe: int


class SampleJob(NamedTuple):
    """All samples of a job, and what they cost."""

    parts: Parts  # the samples, in raw values
    nfe: int
    seconds: float  # spent on them, compilation included
    compile_seconds: float  # of these, the first batch beyond a typical one; 0 with a single batch
    guidance: dict[str, Any] = {}  # what identifies it; {}: none

    @property
    def x(self) -> np.ndarray:
        """All samples (number, ...) in raw values, as the files hold them now.

        They need memory for all.
        """
        return self.parts.whole()


def draw(
    run: Run, denoise: Denoise, setting: Any, index: np.ndarray, report: Callable | None = None
) -> SampleBatch:
    """Return the samples `index` (batch,) of the run's sampling seed, all computed together.

    In another batch they are the same but for rounding; see `drawing`.

    Args:
        run: the run.
        denoise: the denoise function to walk with, such as that of `guidance.guided`.
        setting: an entry of `config.samplers`.
        index: the numbers of the samples.
        report: called with (steps made, steps in all) while the samples are drawn.
    """
    samples = _draw(run, denoise, setting, index, 0, report)
    return SampleBatch(x=fetched(samples.x), nfe=int(samples.nfe))


def drawing(
    run: Run, denoise: Denoise, setting: Any, devices: int = 1
) -> Callable[..., SampleBatch]:
    """Return the function (index, report) -> samples `index` that a job draws with.

    Images of grey levels are computed in blocks (see `run.blocks`), so that each is the same to the
    last bit whatever is drawn beside it, and `report` is not called. Anything else is drawn as
    `draw` does.

    Args:
        run: the run.
        denoise: the denoise function to walk with, such as that of `guidance.guided`.
        setting: an entry of `config.samplers`.
        devices: on how many of them blocks are computed.
    """
    if not block_size(run):
        return lambda index, report=None: draw(run, denoise, setting, index, report)
    program = BlockProgram(run, denoise, setting, devices)
    return lambda index, report=None: SampleBatch(*program(index))


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
    place = placement(run.config, len(index), fitting=True)
    numbers: Any = share(place.mesh, np.asarray(index, np.int32))
    denoise = place.put_weights(denoise)
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

    They are kept in `folder` as they are finished, and those that are there are not drawn again.

    Raises:
        RunError: samples that are not finite, another process that draws into `folder`, or no room
            for them.
    """
    run = loaded.run
    config = run.config
    check_name("sampler", name, config.samplers)
    size = part_size(run)
    denoise, guidance = guided(loaded)
    note = _note(loaded, name, guidance)
    unit = "image" if len(run.facts.shape) == 3 else "sample"
    costs = []
    devices = groups_for(run, min(size, number))
    draws = drawing(run, denoise, config.samplers[name], devices)
    with locked(folder.parent, folder.name), progress(number, f"sample {name}", unit=unit) as bar:
        claim(folder, note)
        for first in range(0, number, size):
            job = PartJob(
                run=run,
                sampler=name,
                drawing=draws,
                devices=devices,
                path=path_of(folder, first),
                first=first,
                size=size,
                number=number,
            )
            part = finished_part(job, bar)
            costs.append(_Cost(len(part.x), part.nfe, part.seconds))
    return SampleJob(
        parts=Parts(folder=folder, number=number, size=size),
        nfe=max(cost.nfe for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        compile_seconds=_compile_seconds(costs),
        guidance=guidance,
    )


def _note(loaded: Loaded, name: str, guidance: dict[str, Any]) -> dict[str, Any]:
    """Return what the samples of a job depend on, as plain JSON."""
    run = loaded.run
    sampling = run.config.sampling
    return identity(loaded) | {
        "setting": json.loads(run.config.samplers[name].to_json_best_effort()),
        "batch_size": part_size(run),
        "block": block_size(run),
        "seed": sampling.seed,
        "label": sampling.label,
        "condition": conditions_digest(run),
        "guidance": guidance,
    }


class _Cost(NamedTuple):
    """What a part cost."""

    samples: int
    nfe: int
    seconds: float


def _compile_seconds(costs: list[_Cost]) -> float:
    """Return by how many seconds the first part exceeds what is typical; 0 for a single part."""
    if len(costs) < 2:
        return 0.0
    typical = float(np.median([cost.seconds / cost.samples for cost in costs[1:]]))
    return max(0.0, costs[0].seconds - typical * costs[0].samples)


def sample(loaded: Loaded, workdir: Path) -> None:
    """Run `--mode=sample`: draw `config.sampling.number` samples and show them."""
    config = loaded.run.config
    name = check_plain_name("the name of a sampler", config.sampling.sampler)
    check_format(config.sampling.format, loaded.run.facts)
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
    """Gather samples, and show them and the states of their walk if there are any."""
    config = loaded.run.config
    codec = loaded.run.facts.codec
    name = config.sampling.sampler
    number = config.sampling.number
    try:
        place = _gather(loaded.run, job.parts, folder)
    except OSError as error:
        raise RunError(
            f"cannot gather the samples ({error}); all {number} are kept in {folder}/batch_*.npz: "
            "make room and start the same command again, or leave them there with "
            "--config.sampling.format=parts"
        ) from error
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
        images = len(loaded.run.facts.shape) == 3
        shown = job.parts.first(SHOWN_IMAGES if images else SHOWN_POINTS)
        pictures.save_png(folder / "grid.png", pictures.picture(codec.expected(shown), codec))
        if states is not None:
            pictures.save_gif(folder / "walk.gif", states, codec)
    except Exception as error:  # whatever a library of pictures raises: the samples are kept
        say(f"no picture of the samples ({type(error).__name__}: {error}); the numbers are kept")
    say(
        f"{number} samples by {name}: {job.nfe} network evaluations each, "
        f"{job.seconds:.1f} s; see {folder / 'grid.png'}, {place}"
    )
    say_next(folder.parents[1], "evaluate")


def _gather(run: Run, parts: Parts, folder: Path) -> str:
    """Write the samples in the format that the configuration names; say where they are."""
    conditions = {
        name: _conditions(run, parts, name) for name in named_conditions(run, np.arange(1))
    }
    if run.config.sampling.format == "npz":
        save_stream(folder / "samples.npz", parts.number, {"x": parts} | conditions)
        return f"the numbers are in {folder / 'samples.npz'}"
    if conditions:
        save_stream(folder / "conditions.npz", parts.number, conditions)
    if run.config.sampling.format == "parts":
        return f"the numbers are in {folder}/batch_*.npz"
    with progress(parts.number, "write png", unit="image") as bar:
        for done in save_pngs(folder / "png", parts, run.facts.levels or 256):
            bar.update(done - bar.n)
    return f"the images are in {folder / 'png'}"


def _conditions(run: Run, parts: Parts, name: str) -> Iterator[np.ndarray]:
    """Yield the label or the condition of each sample, part after part."""
    for index in parts.ranges():
        yield named_conditions(run, index)[name]
