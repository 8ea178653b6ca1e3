"""One process at a time: the operating system's lock on one job of a run directory.

The lock is on a file `.<job>.lock`, which says who holds it. The system lets go of it when its
process ends, however that ends, so that a file left by a killed process holds nobody up. Different
jobs have different locks: a run can be sampled while it is trained.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from ..errors import RunError
from .writing import check_room, clear_leftovers

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

ROOM = 1 << 20  # bytes that a mode wants to be free before it computes for long

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # by some network file systems


@contextlib.contextmanager
def locked(workdir: Path, job: str, room: int = 0) -> Iterator[None]:
    """Hold the lock of `job` in `workdir`.

    The folder is made if it is missing, and removed again if nothing was written.

    Args:
        workdir: a run directory, or another folder that is written to.
        job: what is done, such as "train".
        room: bytes that there has to be room for.

    Raises:
        RunError: another process holds the lock, which the message names, or `workdir` cannot be
            written to, or has no room.
    """
    made = _missing(workdir)
    path = workdir / f".{urllib.parse.quote(job, safe=' ')[:200]}.lock"
    try:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            check_room(workdir, room)
            descriptor = _acquire(path, job)
        except OSError as error:
            raise RunError(
                f"cannot write to {workdir} ({error}); make room or get the right to write there, "
                "or name another folder"
            ) from error
        try:
            clear_leftovers(workdir)
            yield
        finally:
            path.unlink(missing_ok=True)  # before the lock is let go of: `_acquire` knows
            os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # something was written
            for folder in made:
                folder.rmdir()


def _missing(folder: Path) -> list[Path]:
    """Return a folder and those of its parents that do not exist, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _acquire(path: Path, job: str) -> int:
    """Return the descriptor of the lock file, which holds the lock until it is closed."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                _sign(descriptor)
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise RunError(
                f"{path.parent} is in use: {holder} runs {job!r} there; wait until it ends, or "
                "name another --workdir"
            ) from None
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                print(f"{path.parent} has no locks ({error}); start one process", file=sys.stderr)
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it meanwhile


def _is_still(path: Path, descriptor: int) -> bool:
    """Tell whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into a lock file who holds it."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(who).encode())


def _holder(descriptor: int) -> str:
    """Say who holds the lock of an open lock file."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        who = json.loads(os.read(descriptor, 4096))
        return f"process {who['pid']} on {who['host']}, since {who['since']},"
    except (ValueError, KeyError, TypeError, OSError):  # not signed yet
        return "another process"
