"""The snapshots of a run's averages: `snapshots/checkpoints/<step>/`, written as checkpoints are.

They stay when checkpoints are removed. A snapshot is of a multiple of `averages.snapshot_every`
updates, wherever training was stopped in between: a checkpoint is written only after every snapshot
before it, and the one of its own step is made up for at the next start.
"""

from pathlib import Path
from typing import Any

from ..processes import first_goes_ahead
from .checkpoint import Checkpoints, restore
from .checkpoint_folder import complete_steps, folder_of, weights_hash
from .jobs import claim

FOLDER = "snapshots"


class Snapshots:
    """The snapshots of one run directory, open for writing.

    Args:
        workdir: the run directory.
        every: the updates between two of them; 0: there are none.
        note: of training that starts anew, what its parameters depend on: snapshots that were made
            otherwise are moved aside; None: training goes on.
    """

    def __init__(self, workdir: Path, every: int, note: dict[str, Any] | None):
        self.every = every
        self._checkpoints = None
        if every:
            folder = Path(workdir) / FOLDER
            if note is not None:
                with first_goes_ahead("snapshots"):
                    claim(folder, note, results="checkpoints/*")
            self._checkpoints = Checkpoints(folder, keep_period=1)  # all of them stay

    def due(self, step: int) -> bool:
        """Tell whether a snapshot is made after an update."""
        return bool(self.every) and step > 0 and step % self.every == 0

    def save(self, step: int, averages: Any) -> None:
        """Write a snapshot in the background if it is due; one that is there stays as it is."""
        if self._checkpoints is not None and self.due(step):
            self._checkpoints.save(step, averages, None)

    def wait(self) -> None:
        """Wait until what was saved is on disk; see `Checkpoints.wait` for the errors."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._checkpoints is not None:
            self._checkpoints.__exit__(*error)


def snapshot_steps(workdir: Path) -> list[int]:
    """Return the steps of the snapshots of a run directory, in order."""
    return complete_steps(Path(workdir) / FOLDER)


def snapshot_hash(workdir: Path, step: int) -> str:
    """Return what identifies the averages of a snapshot."""
    return weights_hash(folder_of(Path(workdir) / FOLDER, step))


def restore_snapshot(workdir: Path, template: Any, step: int) -> Any:
    """Return the averages of a snapshot, every bit of it checked; see `checkpoint.restore`."""
    return restore(Path(workdir) / FOLDER, template, step).state
