"""A run in one file: a zip archive of plain parts, in which nothing is executed or unpickled.

    manifest.json     format, version, step, the identity of the weights, the SHA-256 of every part
    config.json       the configuration, with the solvers that were fitted among its samplers
    weights/*.npy     the averaged weights, by their place in the network
    card.md, ...      the model card, and what it is made of, as in the run directory

No part is compressed, so that nothing can grow beyond the size of the file.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import RunError
from .writing import without_nan, write_bytes

FORMAT = "run of score-sde-toolkit"
VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights"
REMEDY = "write it anew with --mode=export"
# One time for all parts, so that a run is exported to the same bytes at any time.
TIME = (1980, 1, 1, 0, 0, 0)


class Exported(NamedTuple):
    """What a file of an exported run holds, every bit of it checked."""

    path: Path
    step: int  # of the checkpoint
    weights: str  # what identifies them: the hash of their checkpoint's manifest
    parts: dict[str, bytes]  # by name, the manifest left out


def write_exported(path: Path, step: int, weights: str, parts: Mapping[str, bytes]) -> None:
    """Write the parts of a run into one file, in one piece."""
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "weights": weights,
        "parts": {name: _hash(content) for name, content in sorted(parts.items())},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(MANIFEST, as_json(manifest)), *sorted(parts.items())]:
            archive.writestr(zipfile.ZipInfo(name, TIME), content)
    write_bytes(path, buffer.getvalue())


def read_exported(path: Path) -> Exported:
    """Return what a file of an exported run holds.

    Raises:
        RunError: it is something else, or damaged, or of a version that is not known here.
    """
    try:
        parts = _parts(path)
        manifest = json.loads(parts.pop(MANIFEST))
    except (RunError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # there is no list of what damaged files make the reader raise
        raise RunError(
            f"{path} is no exported run, or it is damaged ({error}); {REMEDY}"
        ) from error
    _check_manifest(path, manifest)
    hashes = {name: _hash(content) for name, content in parts.items()}
    expected = manifest["parts"]
    names = sorted(hashes.keys() | expected.keys())
    if wrong := [name for name in names if hashes.get(name) != expected.get(name)]:
        raise RunError(
            f"{path} is damaged: {', '.join(wrong[:3])} changed since it was written; {REMEDY}"
        )
    return Exported(path=path, step=manifest["step"], weights=manifest["weights"], parts=parts)


def is_exported(path: Path) -> bool:
    """Tell whether a file is an exported run that can be read."""
    try:
        read_exported(path)
    except (RunError, OSError):
        return False
    return True


def as_json(value: Any) -> bytes:
    """Return a value as a JSON file holds it."""
    return (json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n").encode()


def pack(arrays: Mapping[str, np.ndarray], folder: str = WEIGHTS) -> dict[str, bytes]:
    """Return arrays as parts of a file.

    Raises:
        RunError: one of them is not of a type that every NumPy reads, or is not finite.
    """
    parts = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise RunError(
                f"the weights {name} are of type {array.dtype}, which a file of NumPy cannot hold; "
                "train with parameters of float32"
            )
        _check_finite(f"the weights {name}", array)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        parts[f"{folder}/{name}.npy"] = buffer.getvalue()
    return parts


def unpack(
    exported: Exported, shapes: Mapping[str, Any], folder: str = WEIGHTS
) -> dict[str, np.ndarray]:
    """Return the arrays below a folder of a file, which are those of `shapes` and no others.

    Args:
        exported: the file.
        shapes: what has a shape and a dtype, by the name of the array.
        folder: where they lie in the file.

    Raises:
        RunError: there are other arrays, of other shapes or types, or they are not finite.
    """
    names = {name for name in exported.parts if name.startswith(f"{folder}/")}
    wanted = {f"{folder}/{name}.npy": name for name in shapes}
    if other := sorted(names ^ wanted.keys()):
        what = "is missing" if other[0] in wanted else "is not a part of it"
        raise RunError(
            f"{exported.path} does not fit the network of its configuration: {other[0]} {what}; "
            f"{REMEDY}"
        )
    arrays = {}
    for part, name in wanted.items():
        array = _array(exported, part)
        there = f"{array.dtype}{list(array.shape)}"
        here = f"{np.dtype(shapes[name].dtype)}{list(shapes[name].shape)}"
        if there != here:
            raise RunError(
                f"{exported.path} does not fit the network of its configuration: {part} is {there} "
                f"there, {here} here; {REMEDY}"
            )
        _check_finite(f"{exported.path}: {part}", array)
        arrays[name] = array
    return arrays


def _array(exported: Exported, part: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(exported.parts[part]), allow_pickle=False)
    except (ValueError, EOFError, MemoryError, OSError) as error:
        raise RunError(f"{exported.path}: {part} is no array ({error}); {REMEDY}") from error


def _check_finite(what: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise RunError(
            f"{what} hold {count} numbers that are not finite; take the weights of an earlier "
            "checkpoint, from before training failed"
        )


def _parts(path: Path) -> dict[str, bytes]:
    """Return all parts of a file by name.

    The zip format's own checksums are checked on the way.

    Raises:
        RunError: a part is compressed, or two have one name.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names):
            raise RunError(f"{path} holds two parts of one name; {REMEDY}")
        packed = [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]
        size = sum(info.file_size for info in infos)
        if packed or size > path.stat().st_size:
            raise RunError(
                f"{path} was packed by another program ({', '.join(packed[:1])} is compressed), "
                f"and could fill the memory; {REMEDY}"
            )
        return {name: archive.read(name) for name in names}


def _check_manifest(path: Path, manifest: Any) -> None:
    """Raise a RunError unless a manifest is one of ours, of a version that is known here."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RunError(f"{path} is an archive, but not of an exported run; {REMEDY}")
    version = manifest.get("version")
    if version != VERSION:
        raise RunError(
            f"{path} is an exported run of version {version}, this package reads version "
            f"{VERSION}; take the package that wrote it, or a newer one"
        )
    kinds = {"step": int, "weights": str, "parts": dict}
    if wrong := [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]:
        raise RunError(f"{path} is damaged: its manifest has no {wrong[0]}; {REMEDY}")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
