"""What the parts of a card are read from, and of which weights they speak."""

import json
from pathlib import Path
from typing import Any

from ..run.opening import CONVERTED
from ..storage.checkpoint_folder import folder_of, latest, weights_hash
from ..storage.reading import read_object
from ..storage.saved_config import read_config


def config_of(workdir: Path) -> dict[str, Any]:
    """Return the configuration of a run as plain JSON; see `read_config` for the errors."""
    return json.loads(read_config(workdir).to_json_best_effort())


def read_result(workdir: Path, name: str, mode: str) -> dict[str, Any] | None:
    """Return the JSON object that a mode wrote, or None where there is none.

    Raises:
        RunError: it is damaged.
    """
    path = workdir / name
    if not path.exists():
        return None
    return read_object(path, f"--mode={mode} writes it anew")


def results_of(workdir: Path, pattern: str, mode: str) -> dict[str, dict[str, Any]]:
    """Return the objects in all files of a pattern such as "fits/*.json", by their places."""
    results = {}
    for path in present(workdir, pattern):
        place = path.relative_to(workdir)
        results[str(place)] = read_object(path, f"--mode={mode} writes it anew")
    return results


def present(workdir: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern such as "samples/*/grid.png", in order.

    Those of earlier jobs, whose folders were moved aside to NAME.1 and so on, are left out.
    """
    return [path for path in sorted(workdir.glob(pattern)) if not _moved_aside(path.parent)]


def _moved_aside(folder: Path) -> bool:
    """Tell whether a folder was moved aside: NAME.1 beside the NAME that replaced it."""
    stem, _, number = folder.name.rpartition(".")
    return bool(stem) and number.isdecimal() and folder.with_name(stem).is_dir()


def of_which_weights(workdir: Path, result: dict[str, Any]) -> str:
    """Say of which step the weights were that a result was measured with."""
    step = result.get("checkpoint")
    if step is None:
        return "of weights that the file does not name"
    text = f"of the weights of step {step:,}"
    if result.get("weights") in _newest_weights(workdir):
        return text
    return f"{text}, which are **not the newest ones**"


def _newest_weights(workdir: Path) -> set[str]:
    """Return what identifies the newest weights.

    Those of an exported run are known by the hash that they had there, too.
    """
    newest = latest(workdir)
    if newest is None:
        return set()
    names = {weights_hash(folder_of(workdir, newest))}
    if (workdir / CONVERTED).exists():
        note = read_object(workdir / CONVERTED, "remove it if training went on")
        if note.get("step") == newest and "weights" in note:
            names.add(note["weights"])
    return names
