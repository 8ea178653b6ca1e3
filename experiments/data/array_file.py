"""Files of arrays: .npy, IDX, and .npz with examples, labels and conditions.

A .npy file is read in place (memory-mapped), the others into memory. Nothing in them is executed:
Python objects are refused.
"""

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .idx import is_idx_name, read_idx
from .settings import printable

SUFFIXES = (".npy", ".npz")
EXAMPLES = ("x", "images", "data", "arr_0")  # names in an .npz, the first that is there
LABELS = ("y", "label", "labels", "arr_1")
CONDITIONS = "cond"


class Arrays(NamedTuple):
    """What a file holds."""

    x: np.ndarray  # (N, ...)
    labels: np.ndarray | None = None  # (N,)
    cond: np.ndarray | None = None  # (N, ...)


def load_arrays(path: Path) -> Arrays:
    """Open the file at ``path``.

    IDX files are told by their names (`is_idx_name`), the others by their first bytes.

    Raises:
      ValueError: it cannot be read, or does not say which of its arrays are the examples.
    """
    if is_idx_name(path):
        return Arrays(x=read_idx(path))
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            file.seek(0)
            return _from_archive(path, file)
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # there is no list of what NumPy raises over damaged files
        raise _unreadable(path, error) from error
    return Arrays(x=x)


def _from_archive(path: Path, file: BinaryIO) -> Arrays:
    """Read the examples, labels and conditions of an .npz archive."""
    try:
        with np.load(file, allow_pickle=False) as content:
            names = list(content.files)
            examples, labels = _chosen(path, names)
            x = np.asarray(content[examples])
            y = None if labels is None else np.asarray(content[labels])
            cond = np.asarray(content[CONDITIONS]) if CONDITIONS in names else None
    except _Unclear:
        raise
    except Exception as error:  # as above, and what zip files come up with
        raise _unreadable(path, error) from error
    return Arrays(x=x, labels=y, cond=cond)


def _chosen(path: Path, names: list[str]) -> tuple[str, str | None]:
    """Return the names of the examples and of the labels in an archive."""
    examples = next((name for name in EXAMPLES if name in names), None)
    if examples is None and len(names) == 1:
        examples = names[0]
    if examples is None:
        raise _Unclear(
            f"{printable(path)} holds the arrays {', '.join(names) or '(none)'}; expected x, and y "
            "if there are labels, cond if there are conditions: np.savez(path, x=..., y=...)"
        )
    return examples, next((n for n in LABELS if n in names and n != examples), None)


class _Unclear(ValueError):
    """An archive can be read, but does not say what is what."""


def _unreadable(path: Path, error: Exception) -> ValueError:
    """Return the error about a file that NumPy cannot read."""
    reason = str(error) or type(error).__name__
    remedy = "save it anew with np.save, or np.savez for several arrays"
    if "bject" in reason or "pickle" in reason:
        reason = "it holds Python objects, which would have to be executed"
        remedy = "save one array of numbers, such as np.stack(examples)"
    return ValueError(
        f"cannot read {printable(path)} as a {path.suffix} array ({reason}); {remedy}"
    )
