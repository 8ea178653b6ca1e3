"""What a checkpoint is on disk: `checkpoints/<step>/`.

It has a mark that says whose it is, and a manifest that vouches for every bit.

`checkpoint.json` is the mark: the step, and the part of the configuration that the weights belong
to. `manifest.json`, written last, holds the hash of every other file. Folders and files in
`checkpoints/` that lack the mark are somebody else's, whatever they are called, and are left alone.
(Checkpoints of older versions have no mark; their names and their manifests have to do.)
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import RunError

MANIFEST = "manifest.json"
MARK = "checkpoint.json"
ARRAYS = "arrays.json"  # shapes and types; the manifest vouches for it, as for the other files
STAGING = ".unfinished"  # beside the checkpoints: what is being written, and what is being removed

_STEP = re.compile(r"0|[1-9][0-9]*")
_CUT_OFF = re.compile(r"[0-9]+\.orbax-checkpoint-tmp.*")  # how older versions left one


def folder_of(workdir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return Path(workdir) / "checkpoints" / str(step)


def complete_steps(workdir: Path) -> list[int]:
    """Return the steps of the complete checkpoints of a run directory, in order."""
    folder = Path(workdir) / "checkpoints"
    entries = list(folder.iterdir()) if folder.is_dir() else []
    named = [entry for entry in entries if _STEP.fullmatch(entry.name)]
    return sorted(int(entry.name) for entry in named if is_complete(entry))


def is_complete(folder: Path) -> bool:
    """Tell whether `folder` is a checkpoint of ours that was written to its end.

    It has to lie under its own name.
    """
    return (folder / MANIFEST).is_file() and _marked_step(folder) in (None, int(folder.name))


def was_cut_off(folder: Path) -> bool:
    """Tell whether `folder` is a checkpoint of ours that was not written to its end."""
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return False
    if folder.name == STAGING or _CUT_OFF.fullmatch(folder.name):
        return True
    return bool(_STEP.fullmatch(folder.name)) and _marked_step(folder) == int(folder.name)


def is_in_the_way(entry: Path) -> bool:
    """Tell whether something that is not ours has the name of a checkpoint."""
    return bool(_STEP.fullmatch(entry.name)) and not (is_complete(entry) or was_cut_off(entry))


def latest(workdir: Path) -> int | None:
    """Return the step of the newest complete checkpoint of a run directory, or None."""
    return max(complete_steps(workdir), default=None)


def last_good(workdir: Path) -> str:
    """Say which checkpoint a run can go on from."""
    step = latest(workdir)
    if step is None:
        return "no checkpoint was written before"
    return f"the last good checkpoint is {folder_of(workdir, step)}"


def find(workdir: Path, step: int | None) -> Path:
    """Return the folder of the complete checkpoint of a step (None: of the newest).

    Raises:
        RunError: there is none.
    """
    steps = complete_steps(workdir)
    if step is None and steps:
        step = steps[-1]
    if step not in steps:
        which = "" if step is None else f" of step {step}"
        others = f"; it has those of {', '.join(map(str, steps))}" if steps else ""
        raise RunError(
            f"{workdir} holds no complete checkpoint{which}{others}; train it first "
            "(--mode=train), or name another --workdir"
        )
    return folder_of(workdir, step)


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below `folder`, the manifest apart."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): hash_of(p) for p in files}


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(folder: Path) -> str:
    """Return what identifies the weights of a complete checkpoint: the hash of its manifest."""
    return hash_of(folder / MANIFEST)


def check_bits(folder: Path) -> None:
    """Raise a RunError unless every file of a complete checkpoint is as it was written."""
    expected = _manifest(folder)
    actual = hashes(folder)
    names = sorted(expected.keys() | actual.keys())
    refuse_damage(folder, [name for name in names if expected.get(name) != actual.get(name)])


def weights_config(folder: Path) -> dict[str, Any] | None:
    """Return the part of the configuration that the weights of a complete checkpoint belong to.

    Return None in one that does not say.

    Raises:
        RunError: it changed since it was written.
    """
    expected = _manifest(folder).get(MARK)
    if expected is None:
        return None
    if not (folder / MARK).is_file() or hash_of(folder / MARK) != expected:
        refuse_damage(folder, [MARK])
    return json.loads((folder / MARK).read_bytes())["config"]


def refuse_damage(folder: Path, names: list[str]) -> None:
    """Raise a RunError that names the damaged files of a checkpoint, if there are any."""
    if not names:
        return
    if not folder.exists():
        raise RunError(f"checkpoint {folder} was removed while it was read; start again")
    raise RunError(
        f"checkpoint {folder} is damaged: {', '.join(names[:3])} changed since it was written. "
        "Remove that folder to go on from the checkpoint before it, or bring it back from a copy."
    )


def _manifest(folder: Path) -> dict[str, str]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        manifest = {}
    if not isinstance(manifest, dict) or not manifest:
        refuse_damage(folder, [MANIFEST])
        return {}
    return manifest


def _marked_step(folder: Path) -> int | None:
    """Return the step that the mark of a checkpoint names; None without a mark."""
    try:
        return int(json.loads((folder / MARK).read_bytes())["step"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
