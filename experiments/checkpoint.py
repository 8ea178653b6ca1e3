"""Checkpoints that can be trusted: written in the background, atomically, and checked bit by bit when read.

Orbax writes `checkpoints/<step>/` and moves it into place when complete; then a manifest with the hash of every file is written, last and
atomically. A folder without a manifest was cut off and is passed over; one whose bits differ from the manifest is refused.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from .errors import RunError
from .writing import write_json

MANIFEST = "manifest.json"
ARRAYS = "arrays.json"  # their shapes and types; a file like the others, so that the manifest vouches for it


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: Any
    position: Any  # of the data iterator, plain JSON


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        keep: how many of the newest to keep.
        keep_period: keep besides every one whose step is a multiple of this (0: none).
    """

    def __init__(self, workdir: Path, keep: int = 2, keep_period: int = 0):
        self.keep, self.keep_period = keep, keep_period
        self.directory = Path(workdir).absolute() / "checkpoints"
        for folder in self.directory.glob(
            "[0-9]*"
        ):  # also those that Orbax has not moved into place
            if not (folder / MANIFEST).exists():
                print(
                    f"checkpoint {folder} was cut off while being written; removing it",
                    file=sys.stderr,
                )
                shutil.rmtree(folder)
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future | None = None

    def save(self, step: int, state: Any, position: Any) -> None:
        """Write a checkpoint in the background, waiting only for the one before it."""
        self.wait()
        if not (self.directory / str(step) / MANIFEST).exists():
            state = jax.tree.map(
                jnp.copy, state
            )  # the next training step overwrites the one that it is given
            self._pending = self._writer.submit(self._write, step, state, position)

    def wait(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
            RunError: it could not be written, because the disk is full, say.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.shutdown()  # waits
        self._manager.close()
        if error[0] is None:
            self.wait()

    def _write(self, step: int, state: Any, position: Any) -> None:
        try:
            _check_room(self.directory, sum(a.nbytes for a in jax.tree.leaves(state)))
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position)
            )
            self._manager.save(step, args=args, force=True)
            folder = self.directory / str(step)
            write_json(folder / ARRAYS, _arrays(state))
            write_json(folder / MANIFEST, _hashes(folder))
            self._remove_old()  # only now that there is a newer one
        except Exception as error:  # whatever the writer's libraries raise, the run has to say where it can go on from
            good = last_good(self.directory.parent)
            raise RunError(
                f"could not write checkpoint {step} ({error}); {good}. Make room on the disk and start again."
            ) from error

    def _remove_old(self) -> None:
        for step in self._folders()[: -self.keep]:
            if not self.keep_period or step % self.keep_period:
                self._manager.delete(step)

    def _folders(self) -> list[int]:
        return sorted(int(p.name) for p in self.directory.glob("*") if p.name.isdigit())


def latest(workdir: Path) -> int | None:
    """Return the step of the newest complete checkpoint of a run directory, or None."""
    return max(
        (int(p.parent.name) for p in Path(workdir).glob(f"checkpoints/*/{MANIFEST}")), default=None
    )


def last_good(workdir: Path) -> str:
    """Say which checkpoint a run can go on from."""
    step = latest(workdir)
    return (
        "no checkpoint was written before"
        if step is None
        else f"the last good checkpoint is {workdir}/checkpoints/{step}"
    )


def restore(workdir: Path, template: Any, step: int | None = None) -> Restored:
    """Read a checkpoint (default: the newest) into the structure, shapes and shardings of `template`, checking every bit.

    Raises:
        RunError: there is none, or a file of it is missing or damaged, or it belongs to another network.
    """
    workdir = Path(workdir).absolute()
    step = latest(workdir) if step is None else step
    folder = workdir / "checkpoints" / str(step)
    if step is None or not (folder / MANIFEST).exists():
        what = "a complete checkpoint" if step is None else f"a complete checkpoint of step {step}"
        raise RunError(
            f"{workdir} holds no {what[2:]}; train it first (--mode=train), or name another --workdir"
        )
    try:
        expected, found = json.loads((folder / MANIFEST).read_bytes()), _hashes(folder)
        damaged = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
    except ValueError:
        damaged = [MANIFEST]
    if damaged:
        raise RunError(
            f"checkpoint {folder} is damaged: {', '.join(damaged[:3])} changed since it was written. "
            f"Remove that folder to go on from the checkpoint before it, or bring it back from a copy."
        )
    stored, wanted = json.loads((folder / ARRAYS).read_text()), _arrays(template)
    if other := sorted(
        name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name)
    ):
        what = f"{other[0]} is {stored.get(other[0], 'missing')} there, {wanted.get(other[0], 'missing')} here"
        raise RunError(
            f"checkpoint {folder} does not fit the network or optimizer of this configuration: {what}"
        )
    with ocp.CheckpointManager(
        folder.parent, options=ocp.CheckpointManagerOptions(create=False)
    ) as manager:
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore()
        )
        restored = manager.restore(step, args=args)
    return Restored(restored["state"], restored["data"])


def template_of(state: Any, sharding: jax.sharding.Sharding) -> Any:
    """Return the abstract form of a state, to restore into; nothing is allocated."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state)


def _arrays(state: Any) -> dict[str, str]:
    """Return shape and type of every array of a state by its place in it."""
    return {
        jax.tree_util.keystr(path): f"{a.dtype}{list(a.shape)}"
        for path, a in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_room(directory: Path, size: int) -> None:
    """Raise an OSError unless so many bytes can be written: one error, where Orbax would print one for each array."""
    if size and hasattr(os, "posix_fallocate"):  # not on macOS
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
