"""Drawing samples from a run: any number, in the memory of a batch.

Each sample is decided by its index, so that a stopped job goes on where it stopped.

`samples/<sampler>/` receives one file a batch (see `storage.parts`), then `samples.npz` or the
folder `png`, `grid.png` and `summary.json`, and, with `config.sampling.keep` states of the walk,
`walk.npz` and `walk.gif`.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from samplers import Samples, draw_prior
from sde_lib import Denoise, check_name

from ..card.page import update_card
from ..errors import RunError
from ..processes import fetched
from ..run.blocks import BlockProgram, block_size, groups_for, whole_blocks
from ..run.build import Run
from ..run.conditions import conditions_digest, named_conditions, sampled_conditions
from ..run.guidance import guided
from ..run.loading import Loaded
from ..run.messages import progress, say, say_next, skip
from ..run.placement import placement, share
from ..run.walks import make_walk
from ..storage import pictures
from ..storage.gathered import check_format, save_pngs, save_stream
from ..storage.identity import identity
from ..storage.jobs import claim, save_arrays
from ..storage.lock import locked
from ..storage.parts import Part, Parts, path_of, save_part, stored_part
from ..storage.workdir import check_plain_name
from ..storage.writing import write_json

ROOM = 1 << 20  # bytes that a mode wants to be free before it computes for long
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
    size = _part_size(run)
    denoise, guidance = guided(loaded)
    note = identity(loaded) | {
        "setting": json.loads(config.samplers[name].to_json_best_effort()),
        "batch_size": size,
        "block": block_size(run),
        "seed": config.sampling.seed,
        "label": config.sampling.label,
        "condition": conditions_digest(run),
        "guidance": guidance,
    }
    unit = "image" if len(run.facts.shape) == 3 else "sample"
    costs = []
    devices = groups_for(run, min(size, number))
    draws = drawing(run, denoise, config.samplers[name], devices)
    with locked(folder.parent, folder.name), progress(number, f"sample {name}", unit=unit) as bar:
        claim(folder, note)
        for first in range(0, number, size):
            job = _PartJob(run, name, draws, devices, path_of(folder, first), first, number)
            part = _finished_part(job, bar)
            costs.append(_Cost(len(part.x), part.nfe, part.seconds))
    return SampleJob(
        parts=Parts(folder=folder, number=number, size=size),
        nfe=max(cost.nfe for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        compile_seconds=_compile_seconds(costs),
        guidance=guidance,
    )


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


def _part_size(run: Run) -> int:
    """Return how many samples a part holds: a batch, of whole blocks where there are blocks."""
    block = block_size(run) or 1
    return block * whole_blocks(run.config.sampling.batch_size, block)


class _PartJob(NamedTuple):
    """What has to be known to finish a part."""

    run: Run
    sampler: str
    drawing: Callable[..., SampleBatch]
    devices: int  # that draw a block each
    path: Path
    first: int  # sample of the part
    number: int  # of the samples of all parts


def _finished_part(job: _PartJob, bar: Any) -> Part:
    """Return a part with all its samples before `number`; draw and keep those that it lacks."""
    size = _part_size(job.run)
    needed = min(size, job.number - job.first)
    facts = job.run.facts
    nothing = facts.codec.decode(np.zeros((0, *facts.shape), np.float32))
    part = stored_part(job.path, like=nothing)
    skip(bar, min(len(part.x), needed))
    while len(part.x) < needed:
        index = job.first + _next_places(job, len(part.x), size)
        report = _Report(bar, done=bar.n, count=len(index), number=job.number)
        part = part.with_more(_draw_more(job, index, report))
        _keep(job.path, part, kept=int(index[0]))
        bar.update(min(job.first + len(part.x), job.number) - bar.n)
    return part


class _Report(NamedTuple):
    """Moves a bar while `count` samples are drawn, of which those before `number` count."""

    bar: Any
    done: int
    count: int
    number: int

    def __call__(self, step: int, steps: int) -> None:
        now = self.done + self.count * step // steps
        self.bar.update(min(now, self.number) - self.bar.n)


def _next_places(job: _PartJob, done: int, size: int) -> np.ndarray:
    """Return the places in a part whose samples are drawn next: those of a block on each device.

    Without blocks they are all that the part can hold, though a job may need fewer of its last
    part, for which another program would have to be compiled.

    Args:
        job: the part.
        done: how many samples of the part are there.
        size: how many samples a full part holds.
    """
    block = block_size(job.run)
    if not block:
        return np.arange(done, min(size, job.number))
    stop = (done // block + job.devices) * block
    return np.arange(done, min(stop, size, job.number - job.first))


def _keep(path: Path, part: Part, kept: int) -> None:
    """Write a part; `kept`: the number of the first sample that was not there."""
    try:
        save_part(path, part)
    except OSError as error:
        raise RunError(
            f"cannot write samples ({error}); those before number {kept} are kept: make room, or "
            "get the right to write there, and start the same command again"
        ) from error


def _draw_more(job: _PartJob, index: np.ndarray, report: Callable) -> Part:
    """Draw the samples `index`, in raw values."""
    start = time.perf_counter()
    x, nfe = job.drawing(index, report)
    if not np.isfinite(x).all():
        raise RunError(
            f"{job.sampler!r} gave samples that are not finite, from number {index[0]} on; "
            "try more steps or a smaller snr"
        )
    return Part(x=job.run.facts.codec.decode(x), nfe=nfe, seconds=time.perf_counter() - start)


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
