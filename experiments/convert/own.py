"""A run directory made of the file that `--mode=export` writes, of whatever run it was."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ..card.page import update_card
from ..errors import RunError
from ..modes.dequantise import FOLDER, Dequantiser
from ..modes.export import RESULTS
from ..run.build import Run, build
from ..run.exported import exported_config, filled, named_arrays
from ..run.loading import Loaded, restore_run
from ..run.opening import CONVERTED
from ..state import init_state
from ..storage.checkpoint import Checkpoints, latest
from ..storage.exported import REMEDY, Exported, read_exported, unpack
from ..storage.jobs import NOTE
from ..storage.workdir import check_plain_name, run_directory
from ..storage.writing import check_free, write_bytes, write_json
from .formats import Converted
from .reading import reading
from .run import WRITTEN, write_run


def open_exported(source: str | Path, workdir: str | Path, *, trust: bool = False) -> Run:
    """Make a run directory of an exported run, for every mode.

    Sampling and all other modes work with it as with the run that was exported, whose results come
    with it. Training goes on from it with an optimiser that starts anew, as a file holds none, and
    from the averaged weights.

    Args:
        source: the file.
        workdir: the run directory, which must not hold a run yet.
        trust: import classes of one's own that the run names, see `load`.

    Raises:
        RunError: the file cannot be used, see `load`, or the folder holds a run.
    """
    workdir = run_directory(workdir)
    exported = read_exported(Path(source).expanduser())
    if latest(workdir) is not None:
        raise RunError(f"{workdir} already holds a run; name another --workdir")
    results = [name for name in exported.parts if _is_result(name)]
    check_free(workdir, (*WRITTEN, FOLDER, *results))
    config = exported_config(exported, trust=trust)
    config.average = "ema"  # whichever average a file holds, it is the one of its run directory
    with reading(source, "run that can be built"):
        run = write_run(_converted(exported, config), workdir)
    write_json(workdir / CONVERTED, {"step": exported.step, "weights": exported.weights})
    for name in results:
        write_bytes(workdir / name, exported.parts[name])
    if f"{FOLDER}/settings.json" in exported.parts:
        _write_dequantiser(exported, restore_run(run, workdir), workdir / FOLDER)
    update_card(workdir)
    return run


def _converted(exported: Exported, config: ConfigDict) -> Converted:
    """Return an exported run as converters return theirs."""
    run = build(config, abstract=True)
    template = run.split.params
    network = filled(template, unpack(exported, named_arrays(template)))
    # with the weights of the noise levels, where they are learned
    params = run.parameters() | network
    return Converted(config=config, params=params, ema=params, step=exported.step)


def _write_dequantiser(exported: Exported, loaded: Loaded, folder: Path) -> None:
    """Write the flow that places grey levels as training leaves it behind."""
    name = f"{FOLDER}/settings.json"
    try:
        settings = json.loads(exported.parts[name])
        sizes = {key: int(settings[key]) for key in ("width", "layers")}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{exported.path}: {name} is damaged ({error}); {REMEDY}") from error
    dequantiser = Dequantiser(loaded, **sizes)
    template = dequantiser.split.params
    arrays = unpack(exported, named_arrays(template), f"{FOLDER}/weights")
    state = init_state(jax.random.key(0), filled(template, arrays), dequantiser.tx)
    write_json(folder / NOTE, {**sizes, "weights": loaded.weights})
    step = int(loaded.run.config.dequantise.steps)
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(step, state._replace(step=jnp.asarray(step, jnp.int32)), None)


def _is_result(name: str) -> bool:
    """Tell whether a part of a file is a result that belongs into a run directory."""
    parts = name.split("/")
    for pattern in RESULTS:
        patterns = pattern.split("/")
        if len(patterns) == len(parts) and all(map(fnmatchcase, parts, patterns)):
            return all(_is_plain(part) for part in parts)
    return False


def _is_plain(name: str) -> bool:
    try:
        check_plain_name("a part", name)
    except RunError:
        return False
    return True
