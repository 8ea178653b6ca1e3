"""Writing files so that a reader never sees half of one, and JSON that every reader takes."""

import contextlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import RunError

# What `write_bytes` leaves behind if the process is killed in the middle of it:
# .NAME.PID.unfinished, in older versions .batch_N.npz.PID.
_UNFINISHED = re.compile(r"\..+\.\d+\.unfinished|\.batch_\d{7}\.npz\.\d+")
_OLD = 60.0  # seconds after which nobody is writing such a file any more


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one piece: beside it first, then moved over it.

    An OSError names `path`.
    """
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file beside `path` to write to, which is moved over it when all is written.

    An OSError names `path`.

    Args:
        path: the file.
        durable: wait until it is on the disk, so that it survives a loss of power. Thousands of
            small files that can be made again do without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one piece."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` in one piece.

    A number that is not finite, which JSON has not, is null.
    """
    write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Return nested containers with None for each number that is not finite.

    Numbers of NumPy become plain ones.
    """
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        return None
    return number


def check_free(folder: Path, names: tuple[str, ...]) -> None:
    """Raise a RunError if a folder holds anything of these names already.

    So nothing is written over what may be someone else's.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; name a folder that is to be made")
    for name in names:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise RunError(
                f"{folder} already holds {name}, which would be written over; name another folder"
            )


def clear_leftovers(folder: Path, age: float = _OLD) -> None:
    """Remove what killed processes left half written in `folder`.

    These are files that bear the mark of `write_bytes` and are `age` seconds old.
    """
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()


def check_room(folder: Path, size: int) -> None:
    """Raise an OSError unless `size` bytes can be written in `folder`."""
    if size and hasattr(os, "posix_fallocate"):  # not on macOS
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
