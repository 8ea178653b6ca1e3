"""Jobs whose parts are kept: a folder with a note of what the parts depend on, and one file a part.

A job that is started again goes on with the parts that it finds, if its note is the same; otherwise
they are moved aside.
"""

import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..run.messages import say
from .reading import read_arrays
from .writing import clear_leftovers, write_bytes, write_json

NOTE = "job.json"


def claim(folder: Path, note: dict[str, Any], results: str = "batch_*") -> None:
    """Make `folder` the place of this job; move aside what another job left there.

    Only one process may do so at a time (see `lock`).

    Args:
        folder: where the job keeps its parts.
        note: everything that they depend on, as plain JSON.
        results: the pattern of their names.
    """
    before = read_note(folder)
    if before is None and any(folder.glob(results)):
        before = {}  # nobody knows what these depend on
    if before is not None and before != note:
        aside = _free_name(folder)
        folder.rename(aside)
        keys = sorted(before.keys() | note.keys())
        changed = [key for key in keys if before.get(key) != note.get(key)]
        which = (
            f"of another {' and '.join(changed)}" if before else "without a note that can be read"
        )
        say(f"earlier results, {which}, are now in {aside}")
    write_json(folder / NOTE, note)
    clear_leftovers(folder, age=0)


def read_note(folder: Path) -> dict[str, Any] | None:
    """Return the note of the job in `folder`.

    The result is None without one, and an empty note where it is damaged.
    """
    try:
        note = json.loads((folder / NOTE).read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays as .npz in one piece."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def stored_batch(path: Path, shape: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """Return a batch of samples that was drawn before, with its evaluations and seconds.

    The result is None where there is no file, and, after a message, where it is damaged.
    """
    if not path.exists():
        return None
    batch = read_arrays(path, {"x", "nfe", "seconds"})
    if batch is None or batch["x"].shape != shape or not np.isfinite(batch["x"]).all():
        print(f"{path} is damaged; drawing these samples anew", file=sys.stderr)
        return None
    return batch


def _free_name(folder: Path) -> Path:
    """Return the first free name of NAME.1, NAME.2 ..."""
    names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
