"""The name of a run directory: a folder on a file system of this machine."""

import re
from pathlib import Path

from ..errors import RunError

_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # gs://, s3://; pathlib makes one slash of two
_LONGEST = 255  # bytes of one name, on every common file system
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99}")


def run_directory(workdir: str | Path) -> Path:
    """Return the path of a run directory, which need not exist yet, with ~ expanded.

    Raises:
        RunError: it names a store on the network, a file, or what no file system takes.
    """
    text = str(workdir)
    if not text.strip() or "\0" in text:
        raise RunError(
            f"--workdir={text!r} names no folder; name a run directory such as runs/first"
        )
    if _STORE.match(text):
        raise RunError(
            f"--workdir={text} is no folder of this machine; name a local one (or one that is "
            "mounted), and copy it to the store afterwards"
        )
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise RunError(f"--workdir={text}: {error}; write the whole path") from error
    for name in path.parts:
        size = len(name.encode("utf-8", "surrogateescape"))
        if size > _LONGEST:
            raise RunError(
                f"--workdir holds a name of {size} bytes, file systems take {_LONGEST}; shorten "
                f"{name[:40]}..."
            )
    if path.exists() and not path.is_dir():
        raise RunError(f"--workdir={text} is a file; name a folder, which is made if it is missing")
    return path


def check_plain_name(what: str, name: object) -> str:
    """Return `name` if a file can be called so anywhere.

    It holds letters, digits, and _ . + = - between them.

    Raises:
        RunError: it cannot.
    """
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        raise RunError(
            f"{what} is {name!r}; choose a plain name of at most 100 letters, digits and _ . + = -"
        )
    return name
