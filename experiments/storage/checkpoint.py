"""Checkpoints that can be trusted.

They are written in the background, atomically, and checked bit by bit when read.

A checkpoint is written aside, its manifest last, and then moved into place (see
`checkpoint_folder`), so that one whose writing was cut off never stands among the others; one whose
bits differ from its manifest is refused.
"""

import contextlib
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ..errors import RunError
from ..processes import any_says, are_several, first_goes_ahead, is_first
from .checkpoint_folder import (
    ARRAYS,
    MANIFEST,
    MARK,
    STAGING,
    check_bits,
    complete_steps,
    find,
    hashes,
    is_complete,
    is_in_the_way,
    was_cut_off,
)
from .checkpoint_folder import last_good as last_good
from .checkpoint_folder import latest as latest
from .writing import check_room, write_json

_ORBAX = threading.Lock()  # two of its checkpointers at a time take each other's folders for theirs


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: Any
    position: Any  # of the data iterator, plain JSON


class Checkpoints:
    """The checkpoints of one run directory.

    No other process may write them at the same time (see `lock`).

    Args:
        keep: how many of the newest to keep.
        keep_period: keep besides every one whose step is a multiple of this (0: none).
        config: the part of the configuration that the weights belong to; it is stored with them.

    Raises:
        RunError: something that is not ours has the name of a checkpoint.
    """

    def __init__(
        self,
        workdir: Path,
        keep: int = 2,
        keep_period: int = 0,
        config: dict[str, Any] | None = None,
    ):
        self.keep = keep
        self.keep_period = keep_period
        self.config = config
        self.directory = Path(workdir).absolute() / "checkpoints"
        self.directory.mkdir(parents=True, exist_ok=True)
        with first_goes_ahead("checkpoints"):
            self._clear()
        self._staging = self.directory / STAGING
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future | None = None

    def _clear(self) -> None:
        """Remove what was cut off; raise a RunError if what is not ours is named like one."""
        for entry in sorted(self.directory.iterdir()):
            if was_cut_off(entry):
                print(
                    f"checkpoint {entry} was cut off while being written; removing it",
                    file=sys.stderr,
                )
                shutil.rmtree(entry)
            elif is_in_the_way(entry):
                raise RunError(
                    f"{entry} has the name of a checkpoint, but was not written by this run; "
                    "rename it"
                )

    def save(self, step: int, state: Any, position: Any) -> None:
        """Write a checkpoint in the background, waiting only for the one before it.

        Of several processes each writes what its devices hold, and the first the rest.
        """
        self.wait()
        if not any_says(is_complete(self.directory / str(step))):
            # a copy, for the next training step overwrites the state that it is given
            state = jax.tree.map(jnp.copy, state)
            self._pending = self._writer.submit(self._write, step, state, position)

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, if there is one.

        Wait for nothing.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

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
        if error[0] is None:
            self.wait()

    def _write(self, step: int, state: Any, position: Any) -> None:
        try:
            # one error for all, where Orbax would print one for each array
            check_room(self.directory, sum(a.nbytes for a in jax.tree.leaves(state)))
            folder = self._staging / str(step)
            self._staging.mkdir(exist_ok=True)
            _write_arrays(folder, state, position)
            if is_first():  # all have written
                self._finish(folder, step, state)
        except Exception as error:  # whatever the writer's libraries raise
            good = last_good(self.directory.parent)
            raise RunError(
                f"could not write checkpoint {step} ({error}); {good}. Make room on the disk and "
                "start again."
            ) from error
        finally:
            if is_first():
                shutil.rmtree(self._staging, ignore_errors=True)

    def _finish(self, folder: Path, step: int, state: Any) -> None:
        """Vouch for the arrays in a folder, and move it into its place."""
        write_json(folder / MARK, {"step": step, "config": self.config})
        write_json(folder / ARRAYS, _arrays(state))
        write_json(folder / MANIFEST, hashes(folder))
        folder.rename(self.directory / str(step))
        self._remove_old()  # only now that there is a newer one

    def _remove_old(self) -> None:
        for step in complete_steps(self.directory.parent)[: -self.keep]:
            if not self.keep_period or step % self.keep_period:
                # moved aside first, so that a reader never sees half of it under its name
                (self.directory / str(step)).rename(self._staging / f"removed-{step}")


def restore(
    workdir: Path, template: Any, step: int | None = None, without: Sequence[str] = ()
) -> Restored:
    """Read a checkpoint, checking every bit, into the structure of `template`.

    Shapes and shardings are those of the template. `step`: of the checkpoint; None: the newest.
    Fields of the state named in `without` take no memory; they come back as None.

    Raises:
        RunError: there is none, or a file of it is missing or damaged, or it belongs to another
            network.
    """
    folder = find(Path(workdir).absolute(), step)
    check_bits(folder)
    stored = json.loads((folder / ARRAYS).read_text())
    wanted = _arrays(template)
    for name in sorted(stored.keys() | wanted.keys()):
        there = stored.get(name, "missing")
        here = wanted.get(name, "missing")
        if there != here:
            raise RunError(
                f"checkpoint {folder} does not fit the network or optimizer of this configuration: "
                f"{name} is {there} there, {here} here"
            )
    return _read_arrays(folder, template, without)


def template_of(state: Any, shardings: Any) -> Any:
    """Return the abstract form of a state, to restore into; nothing is allocated.

    `shardings`: where its arrays are to be; a tuple like it, or one for all of them.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, state)
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        state,
        shardings,
    )


def holds(folder: Path, field: str) -> bool:
    """Tell whether a complete checkpoint holds arrays in a field of its state.

    One whose files are damaged, which `restore` refuses, holds none.
    """
    try:
        stored = json.loads((folder / ARRAYS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return any(name.startswith(f".{field}") for name in stored)


def _arrays(state: Any) -> dict[str, str]:
    """Return shape and type of every array of a state by its place in it."""
    return {
        jax.tree_util.keystr(path): f"{a.dtype}{list(a.shape)}"
        for path, a in jax.tree_util.tree_leaves_with_path(state)
    }


def _write_arrays(folder: Path, state: Any, position: Any) -> None:
    with _ORBAX, _plainly_named(folder.parent) as parent, _checkpointer() as checkpointer:
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_filled_fields(state)),
            data=ocp.args.JsonSave(position),
        )
        checkpointer.save(parent / folder.name, args=args)


def _read_arrays(folder: Path, template: Any, without: Sequence[str]) -> Restored:
    item = _filled_fields(template)
    for field in without:
        item[field] = jax.tree.map(lambda _: ocp.PLACEHOLDER, item[field])
    places = ocp.checkpoint_utils.construct_restore_args(item)
    with _ORBAX, _plainly_named(folder.parent) as parent, _checkpointer() as checkpointer:
        args = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(item, restore_args=places),
            data=ocp.args.JsonRestore(),
        )
        restored = checkpointer.restore(parent / folder.name, args=args)
    state = restored["state"]
    if hasattr(template, "_replace"):
        state = template._replace(**{**state, **dict.fromkeys(without)})
    return Restored(state=state, position=restored["data"])


def _filled_fields(state: Any) -> Any:
    """Return the fields of a NamedTuple by name, without optional ones that hold no arrays.

    So a state fits checkpoints that are older than such a field. Other states stay as they are.
    """
    if not hasattr(state, "_asdict"):
        return state
    optional = state._field_defaults
    return {
        name: value
        for name, value in state._asdict().items()
        if name not in optional or jax.tree.leaves(value)
    }


def _checkpointer() -> ocp.Checkpointer:
    everyone = set(range(jax.process_count())) if are_several() else None
    # Named processes wait for one another without their devices, which a training step keeps busy.
    together = ocp.options.MultiprocessingOptions(active_processes=everyone)
    options = ocp.CompositeOptions(multiprocessing_options=together)
    handler = ocp.CompositeCheckpointHandler(composite_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=together)


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """Yield a path of `folder` that Orbax and TensorStore take literally.

    They interpret signs such as the [ ] of a pattern: where the path has some, it is a link.
    """
    if re.fullmatch(r"[\w/. =+-]*", str(folder), re.ASCII):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as place:
        link = Path(place) / "link"
        link.symlink_to(folder, target_is_directory=True)
        yield link
