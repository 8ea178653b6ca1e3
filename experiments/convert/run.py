"""A converted checkpoint as an ordinary run directory.

It holds `config.json` and one checkpoint, as training leaves them behind.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from ..errors import RunError
from ..run.build import Run, build
from ..run.check import check_run, check_settings
from ..run.opening import CONVERTED
from ..state import init_state
from ..storage.checkpoint import Checkpoints, latest
from ..storage.lock import locked
from ..storage.saved_config import CONFIG, decisive
from ..storage.workdir import run_directory
from ..storage.writing import check_free, write_json
from .formats import FORMATS, Converted
from .reading import reading

WRITTEN = ("config.json", CONVERTED, "checkpoints")


def convert(source: str | Path, format: str, workdir: str | Path, config: str | None = None) -> Run:
    """Make a run directory of a foreign checkpoint.

    Sampling, evaluation and `load` open it like any other. Training goes on from it (--mode=train,
    with a configuration of the same net, sde and denoiser), with an optimizer that starts anew: of
    a foreign file only the weights, their moving average and the step are read.

    Args:
        source: the foreign file.
        format: a name of FORMATS.
        workdir: the run directory, which must not hold a run yet.
        config: file of the network's configuration: one of ours with an optional variant, or the
            foreign one as JSON where the format has one.

    Raises:
        RunError: the file cannot be read, or does not fit the configuration.
    """
    if format not in FORMATS:
        raise RunError(f"unknown format {format!r}; choose one of {', '.join(FORMATS)}")
    source = Path(source)
    workdir = run_directory(workdir)
    if not source.is_file():
        raise RunError(f"there is no file {source} to convert")
    if latest(workdir) is not None:
        raise RunError(f"{workdir} already holds a run; name another --workdir")
    check_free(workdir, WRITTEN)
    converted = FORMATS[format](source, config)
    with reading(source, "checkpoint of a network that can be run"):
        return write_run(converted, workdir)


def write_run(converted: Converted, workdir: Path) -> Run:
    """Write a converted checkpoint as a run directory; return the run.

    Raises:
        RunError: another process writes there.
    """
    check_settings(converted.config)
    run = build(converted.config, abstract=True)
    check_run(run)
    key = jax.random.fold_in(jax.random.key(run.config.seed), 1)
    state = init_state(key, jax.tree.map(jnp.asarray, converted.params), run.tx)
    state = state._replace(
        step=jnp.asarray(converted.step, jnp.int32),
        ema=jax.tree.map(jnp.asarray, converted.ema),
    )
    config = json.loads(run.config.to_json_best_effort())
    with locked(workdir, "train"):  # which would write the same files
        write_json(workdir / CONVERTED, {"step": converted.step})
        write_json(workdir / CONFIG, config)
        with Checkpoints(workdir, config=decisive(config)) as checkpoints:
            checkpoints.save(converted.step, state, None)
    return run
